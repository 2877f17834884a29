"""Parameters, FLOPs and memory of a training run, from the sizes in the model's config.

Pure arithmetic, no model is built: `describe` puts the numbers beside what the sample plan holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from longspan.config.model import Lora
from longspan.errors import ConfigError

_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
# Half a byte a weight, a byte for each block of 64, 4 for each 256 blocks (QLoRA 2305.14314, double quantisation).
_NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class ModelSizes:
    """The sizes that decide cost, of the Llama, Mistral, Qwen2 and Qwen3 families.

    Attributes are those of Hugging Face's config.json. `head_dim` may differ from hidden_size / num_attention_heads.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool


def model_sizes(config: Mapping[str, Any]) -> ModelSizes:
    """Sizes from the fields of a config.json, with the defaults of transformers for those that may be left out.

    Raises:
        ConfigError: a size is missing.
    """
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    missing = [name for name in needed if config.get(name) is None]
    if missing:
        raise ConfigError(f"model: its config has no {missing[0]}, so its cost cannot be computed")
    family = str(config.get("model_type", "llama"))
    heads = int(config["num_attention_heads"])
    return ModelSizes(
        model_type=family,
        **{name: int(config[name]) for name in needed},
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        # The other families have no such biases, whatever the config says; Qwen2 always has its own.
        attention_bias=family in ("llama", "qwen3") and bool(config.get("attention_bias", False)),
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
    )


def count_parameters(sizes: ModelSizes) -> int:
    """Parameters of the model, embeddings and output head included, a tied head once."""
    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    query = sizes.num_attention_heads * sizes.head_dim
    key_value = sizes.num_key_value_heads * sizes.head_dim
    attention = 2 * hidden * (query + key_value)
    if sizes.attention_bias or sizes.model_type == "qwen2":
        attention += query + 2 * key_value + (0 if sizes.model_type == "qwen2" else hidden)
    if sizes.model_type == "qwen3":
        attention += 2 * sizes.head_dim  # one RMSNorm over a head for queries, one for keys
    mlp = 3 * hidden * inner + (2 * inner + hidden if sizes.mlp_bias else 0)
    embeddings = sizes.vocab_size * hidden * (1 if sizes.tie_word_embeddings else 2)
    return embeddings + sizes.num_hidden_layers * (attention + mlp + 2 * hidden) + hidden


def count_trained(sizes: ModelSizes, lora: Lora | None) -> tuple[int, int]:
    """Parameters that are trained, and how many of them LoRA adds to the model's own.

    Raises:
        ConfigError: a name in the recipe's lora is none of these families' modules.
    """
    if lora is None:
        return count_parameters(sizes), 0
    linears, whole = _linear_shapes(sizes), _module_parameters(sizes)
    for field, names, known in (("targets", lora.targets, linears), ("also_train", lora.also_train, whole)):
        for name in names:
            if name not in known:
                raise ConfigError(f"model.lora.{field}: this model has no '{name}'; it has {', '.join(sorted(known))}")
    added = sum(count * lora.rank * (wide + high) for count, wide, high in (linears[name] for name in lora.targets))
    return added + sum(whole[name] for name in lora.also_train), added


def _linear_shapes(sizes: ModelSizes) -> dict[str, tuple[int, int, int]]:
    """Linear layers by the last part of their name: how many there are, inputs, outputs."""
    layers, hidden, inner = sizes.num_hidden_layers, sizes.hidden_size, sizes.intermediate_size
    query, key_value = (n * sizes.head_dim for n in (sizes.num_attention_heads, sizes.num_key_value_heads))
    shapes = {
        "q_proj": (layers, hidden, query),
        "k_proj": (layers, hidden, key_value),
        "v_proj": (layers, hidden, key_value),
        "o_proj": (layers, query, hidden),
        "gate_proj": (layers, hidden, inner),
        "up_proj": (layers, hidden, inner),
        "down_proj": (layers, inner, hidden),
    }
    return shapes if sizes.tie_word_embeddings else {**shapes, "lm_head": (1, hidden, sizes.vocab_size)}


def _module_parameters(sizes: ModelSizes) -> dict[str, int]:
    """Parameters of the modules that may be trained whole, by the last part of their name; biases left out."""
    layers, hidden = sizes.num_hidden_layers, sizes.hidden_size
    linears = {name: count * wide * high for name, (count, wide, high) in _linear_shapes(sizes).items()}
    attention = sum(linears[name] for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    mlp = sum(linears[name] for name in ("gate_proj", "up_proj", "down_proj"))
    head_norms = dict.fromkeys(("q_norm", "k_norm"), layers * sizes.head_dim) if sizes.model_type == "qwen3" else {}
    return (
        linears
        | head_norms
        | {
            "embed_tokens": sizes.vocab_size * hidden,
            "norm": hidden,
            "input_layernorm": layers * hidden,
            "post_attention_layernorm": layers * hidden,
            "self_attn": attention + sum(head_norms.values()),
            "mlp": mlp,
        }
    )


def flops_per_token(sizes: ModelSizes, sample_length: float, lora: Lora | None = None) -> float:
    """Useful FLOPs to train on one token of a sample of `sample_length` tokens: 6 N + 6 L d S.

    N is the number of parameters (2 N forward, 4 N backward; the usual count, which takes the embedding for a matmul).
    L layers, d = heads x head_dim and S tokens give the causal attention: QK^T and AV are 2 S d each forward, three
    times that with backward, of which causality keeps half. Recomputation is not useful work and does not count. An
    upper bound where documents are shorter than the sample and masked from each other. A weight that LoRA freezes has
    no gradient of its own, which leaves it 4 of its 6.
    """
    trained, added = count_trained(sizes, lora)
    attention = 6 * sizes.num_hidden_layers * sizes.num_attention_heads * sizes.head_dim * sample_length
    return 4.0 * (count_parameters(sizes) + added) + 2.0 * trained + attention


def gpu_hours(total_flops: float, *, peak_flops: float = 989.4e12, utilisation: float = 0.4) -> float:
    """Hours of one GPU at a share of its peak; the defaults are an H100 or H200 in bfloat16 at 40 %."""
    return total_flops / (peak_flops * utilisation) / 3600


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one GPU at the height of a step, by what takes them; the allocator's slack and CUDA itself come on top.

    Attributes:
        weights, gradients: in the model's dtype, divided over the ranks from ZeRO-3 and ZeRO-2 on.
        optimizer: float32 master weights and both AdamW moments, divided over the ranks.
        activations: what the backward pass needs; with checkpointing every layer's input and one layer in full.
        logits: one chunk of the loss, with its gradient.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def memory_per_gpu(
    sizes: ModelSizes,
    *,
    dtype: str,
    zero_stage: int,
    world: int,
    tokens_per_rank: int,
    gradient_checkpointing: bool,
    loss_chunk: int,
    lora: Lora | None = None,
) -> MemoryEstimate:
    """Estimate of one rank's memory, to tell what fits from what does not.

    Args:
        dtype: "float32" or "bfloat16", of weights, gradients and activations.
        zero_stage: 0 (nothing divided) to 3.
        world: ranks that ZeRO divides over (data-parallel and sequence-parallel alike).
        tokens_per_rank: tokens of a micro-batch on one rank.
        loss_chunk: tokens whose logits are held at once.
        lora: of the recipe; gradients and optimizer are then those of its trained parameters.
    """
    size = _ELEMENT_BYTES[dtype]
    trained, added = count_trained(sizes, lora)
    weights = (count_parameters(sizes) + added) * size
    if lora is not None and lora.quantize is not None:
        in_4_bits = sum(
            count * wide * high
            for name, (count, wide, high) in _linear_shapes(sizes).items()
            if name not in ("lm_head", *lora.also_train)
        )
        weights -= round(in_4_bits * (size - _NF4_BYTES))
    shard = [world if zero_stage >= stage else 1 for stage in range(4)]
    # A layer in full: its input twice normalised, queries, keys, values, attention output and its projection, gate, up,
    # their product; attention scores are never held (flash or sdpa kernels).
    heads = (2 * sizes.num_attention_heads + 2 * sizes.num_key_value_heads) * sizes.head_dim
    layer = tokens_per_rank * size * (4 * sizes.hidden_size + heads + 4 * sizes.intermediate_size)
    inputs = tokens_per_rank * size * sizes.hidden_size * sizes.num_hidden_layers
    activations = inputs + layer if gradient_checkpointing else layer * sizes.num_hidden_layers
    return MemoryEstimate(
        weights=-(-weights // shard[3]),
        gradients=-(-trained * size // shard[2]),
        optimizer=-(-trained * 12 // shard[1]),
        activations=activations,
        logits=min(loss_chunk, tokens_per_rank) * sizes.vocab_size * (size + 4 + 4),
    )
