"""Models exported by longspan's own way, and what their numbers should be.

Those of the families are small, and their random weights large where it counts: attention that looks at everything
alike would not see its RoPE.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longspan.checkpoint.adapter import fold, write_adapter
from longspan.checkpoint.export import write_model
from longspan.config.model import Lora, Model
from longspan.model.load import head_dim, open_model, read_config, rope_of_run
from longspan.model.lora import adapter_of
from longspan.rope import RopeSettings, at_length, attention_scaling, from_hf, inv_freq
from tests.readers.kinds import HEAD_DIM, TARGET, THETA, Kind

SIZES = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": HEAD_DIM,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_ROWS = 1024
CONFIG = "config.json"


@dataclass(frozen=True)
class Export:
    """A model directory for the readers, and the same model in memory.

    Attributes:
        kind, family: what it is.
        directory: what longspan has written: `checkpoint`, and `adapter` beside it where there is one.
        base: the model before.
        settings: RoPE of the export.
        plain: RoPE of the base without any scaling.
        target: the window to reach, in tokens.
        weights: of the network, by name.
    """

    kind: str
    family: str
    directory: Path
    base: Path
    settings: RopeSettings
    plain: RopeSettings
    target: int
    weights: Mapping[str, torch.Tensor]

    @property
    def name(self) -> str:
        return f"{self.kind} / {self.family}"

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / CONFIG).read_text())
        return found

    @property
    def fixed(self) -> RopeSettings:
        """What a reader uses that serves every prompt as one of the whole window."""
        return at_length(self.settings, self.target, head_dim(read_config(Model(path=str(self.base)))))


def export(kind: Kind, family: str, folder: Path, target: int = TARGET) -> Export:
    """A small random model of `family`, opened under the recipe's RoPE and written as a run's end does."""
    base = folder / "base"
    _write_base(kind, family, base)
    model = Model(path=str(base), weights="random", dtype="float32", gradient_checkpointing=False)
    network, _ = open_model(model, kind.section, target, seed=0)
    _enlarge(network)
    return _written(kind, family, model, network, dict(network.named_parameters()), folder, target)


def export_adapter(kind: Kind, family: str, folder: Path) -> Export:
    """The same with LoRA: its matrices in `adapter`, and folded into the weights in `checkpoint`."""
    plain = export(Kind("keep", {}, kind.base, kind.window), family, folder / "plain", kind.window)
    model = Model(path=str(plain.directory), dtype="float32", gradient_checkpointing=False, lora=Lora(rank=8, alpha=16))
    network, _ = open_model(model, kind.section, TARGET, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapter = adapter_of(network)
    assert adapter is not None
    weights = {name: parameter.detach().contiguous() for name, parameter in network.named_parameters()}
    made = _written(kind, family, model, network, fold(adapter, dict(weights), torch.float32), folder, TARGET)
    config = partial(shutil.copyfile, made.directory / CONFIG)
    write_adapter(adapter, weights, str(folder / "adapter"), {CONFIG: config})
    return made


def export_pretrained(kind: Kind, base: Path, target: int, folder: Path) -> Export:
    """A real model under the recipe's RoPE, its weights as they are."""
    model = Model(path=str(base), dtype="float32", gradient_checkpointing=False)
    network, _ = open_model(model, kind.section, target, seed=0)
    return _written(kind, base.name, model, network, dict(network.named_parameters()), folder, target)


def _written(
    kind: Kind, family: str, model: Model, network: Any, weights: dict[str, Any], folder: Path, target: int
) -> Export:
    config = read_config(model)
    run = rope_of_run(config, kind.section, target)
    plain = RopeSettings("default", from_hf(config.to_dict()).rope_theta)
    weights = {name: weight.detach().contiguous() for name, weight in weights.items()}
    write_model(network, dict(weights), run.exported, str(folder / "checkpoint"))
    return Export(kind.name, family, folder / "checkpoint", Path(model.path), run.exported, plain, target, weights)


def _write_base(kind: Kind, family: str, base: Path) -> None:
    from transformers import AutoConfig

    extra = {"sliding_window": None} if family == "mistral" else {}
    if kind.base["rope_type"] == "longrope":
        extra["original_max_position_embeddings"] = kind.base["original_max_position_embeddings"]
    sizes = SIZES | {"max_position_embeddings": kind.window, "rope_parameters": {"rope_theta": THETA, **kind.base}}
    AutoConfig.for_model(family, **sizes, **extra).save_pretrained(base)


def _enlarge(network: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2:
                parameter.add_(drawn * 0.1)
                continue
            spread = 2.0 if name.endswith(("q_proj.weight", "k_proj.weight", "lm_head.weight")) else 1.0
            parameter.copy_(drawn * spread / parameter.shape[1] ** 0.5)


class Reference:
    """The exported weights in a network that knows plain RoPE only, with longspan's own frequencies put into it."""

    def __init__(self, made: Export) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(made.base)
        config.rope_parameters = {"rope_type": "default", "rope_theta": THETA}
        self.network: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        missing, unknown = self.network.load_state_dict(made.weights, strict=False)
        assert not unknown
        assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
        self.dimensions = head_dim(config)

    @torch.no_grad()
    def logprobs(self, settings: RopeSettings, prompt: list[int]) -> np.ndarray:
        """Log-probabilities of the prompt's tokens but the first, float64 [len(prompt) - 1]."""
        rotary = self.network.model.rotary_emb
        frequencies = inv_freq(settings, self.dimensions, sequence_length=len(prompt))
        rotary.inv_freq.copy_(torch.from_numpy(frequencies))
        rotary.attention_scaling = attention_scaling(settings)
        ids = torch.tensor([prompt])
        hidden = self.network.model(input_ids=ids).last_hidden_state[0, :-1]
        rows = []
        for states, targets in zip(hidden.split(_ROWS), ids[0, 1:].split(_ROWS), strict=True):
            found = self.network.lm_head(states).double().log_softmax(-1)
            rows.append(found.gather(1, targets[:, None])[:, 0])
        return torch.cat(rows).numpy()
