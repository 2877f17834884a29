"""The DeepSpeed engine: ZeRO over all ranks, AdamW with float32 masters.

DeepSpeed is not told of the sequence-parallel groups: to it every rank is a data-parallel one, and it divides gradients
by the number of ranks under every ZeRO stage. Told of them (`mpu`), 0.19.8 divides by another number under ZeRO-3 than
under ZeRO-1 and 2, so that gradients come out smaller by the sequence-parallel degree and clipping acts on the wrong
norm.
"""

from typing import Any

import torch

from longspan.checkpoint.state import start_moments
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.model.attention import Documents, resolve_kernel
from longspan.model.load import assert_rope, head_dim
from longspan.model.loss import CausalLMLoss
from longspan.planner.attention_window import attention_group
from longspan.rope import RopeSettings
from longspan.topology import check_head_halves
from longspan.train.world import World

_BUCKET = 200_000_000


def deepspeed_config(recipe: Recipe, accumulation: int, num_parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration for the recipe; what is not here is DeepSpeed's default.

    `num_parameters` are the trained ones: the buffers that it sizes hold gradients and new weights.
    """
    train = recipe.train
    bucket = min(_BUCKET, num_parameters)
    zero: dict[str, Any] = {
        "stage": train.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": torch.cuda.is_available(),
    }
    if train.zero_stage == 3:
        zero |= {"stage3_prefetch_bucket_size": _BUCKET, "stage3_max_live_parameters": max(bucket, 10**9)}
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.grad_clip,
        "zero_optimization": zero,
        "communication_data_type": "fp32",
        "bf16": {"enabled": recipe.model.dtype == "bfloat16", "check_grad_overflow": True},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
    }


def accumulation_steps(recipe: Recipe, world: World) -> int:
    """Micro-batches that a data-parallel group computes in an optimizer step."""
    return recipe.train.global_batch_size // (recipe.train.micro_batch_size * world.topology.data_parallel)


def build_engine(network: CausalLMLoss, settings: RopeSettings, recipe: Recipe, world: World) -> Any:
    """DeepSpeed engine around `network`.

    Raises:
        ConfigError: quantised weights with ZeRO-3; DeepSpeed's casts changed the RoPE frequencies (it did before
            0.19.8).
    """
    import deepspeed

    train = recipe.train
    if recipe.model.lora is not None and recipe.model.lora.quantize is not None:
        _check_quantised(recipe)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        eps=train.eps,
        fused=world.device.type == "cuda",
    )
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=optimizer,
        config=deepspeed_config(recipe, accumulation_steps(recipe, world), sum(p.numel() for p in parameters)),
        dist_init_required=False,
    )
    start_moments(engine)
    assert_rope(network.model, settings)
    return engine


def _check_quantised(recipe: Recipe) -> None:
    if recipe.train.zero_stage == 3:
        raise ConfigError("train.zero_stage: 3 cannot divide the 4-bit weights of model.lora.quantize; use 1 or 2")


def attention_layout(network: CausalLMLoss, recipe: Recipe, world: World) -> Documents:
    """Kernel, sequence parallelism and groups of the run, to be given the boundaries of each micro-batch.

    Raises:
        TopologyError: the heads do not halve, as shifted sparse attention needs.
    """
    config: Any = network.model.config
    group = attention_group(recipe)
    if group:
        check_head_halves(config.num_attention_heads, config.num_key_value_heads, world.topology.sequence_parallel)
    sequence_parallel = None
    if world.topology.sequence_parallel > 1:
        from longspan.model.ulysses import UlyssesAttention

        sequence_parallel = UlyssesAttention(
            world.sequence_group,
            config.num_attention_heads,
            config.num_key_value_heads,
            head_dim(config),
            config.num_hidden_layers,
        )
    return Documents((0,), resolve_kernel(recipe.model.attention, world.device), sequence_parallel, group=group)
