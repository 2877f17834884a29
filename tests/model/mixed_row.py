"""A packed row and the model with mixed windows that reads it, for tests on one rank and on two."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.config.model import Model, Rope
from longspan.model.attention import Documents
from longspan.model.load import open_model
from longspan.rope import RopeSettings

LENGTHS = (20, 90, 64, 26)
"""The window of the model is 64: all but the second keep its RoPE. Two ranks meet at 100, inside the second."""
TOKENS = sum(LENGTHS)
BOUNDARIES = (0, 20, 110, 174, 200)
NTK = {"type": "ntk", "mixed_window": True}
YARN = {"type": "yarn", "attention_factor": 1.0, "mixed_window": True}


def opened(path: Path | str, rope: dict[str, Any], sequence_rank: int = 0) -> tuple[Any, RopeSettings]:
    model = Model(path=str(path), dtype="float32", gradient_checkpointing=False)
    return open_model(model, Rope.model_validate(rope), 256, 0, sequence_rank)


def row() -> tuple[Tensor, Tensor]:
    ids = torch.randint(96, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    return ids, torch.cat([torch.arange(length, dtype=torch.float32) for length in LENGTHS])[None]


def hidden(network: Any, part: slice = slice(None), documents: Documents | None = None) -> Tensor:
    ids, positions = row()
    return network.model(
        input_ids=ids[:, part],
        position_ids=positions[:, part],
        documents=documents or Documents(BOUNDARIES),
        use_cache=False,
    ).last_hidden_state[0]
