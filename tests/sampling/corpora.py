"""Small corpora for the tests of this room."""

from itertools import chain
from typing import Any

import numpy as np
from hypothesis import strategies as st

from longspan.sampling.plan import MixPoint, PlanPart, PlanSettings
from longspan.sampling.table import CorpusTable

NAMES = ("books", "code", "web")


def table_of(*lengths: list[int], chunk_tokens: int = 64) -> CorpusTable:
    """One source for each list."""
    source_id = np.repeat(np.arange(len(lengths)), [len(source) for source in lengths])
    return CorpusTable.from_lengths(source_id, list(chain(*lengths)), NAMES[: len(lengths)], chunk_tokens)


def settings_of(**changes: Any) -> PlanSettings:
    values: dict[str, Any] = {
        "mix": (MixPoint(0, {"books": 1.0}),), "steps": 25, "global_batch_size": 4, "sample_length": 32,
        "packing": "best_fit", "shuffle": True, "shuffle_tokens": 300, "upsample": {}, "max_epochs": {},
        "on_limit": "refuse", "seed": 1,
    }  # fmt: skip
    values |= changes
    return PlanSettings(**({"trained_length": values["sample_length"]} | values))


LENGTHS = st.lists(st.integers(1, 150), min_size=1, max_size=40)


def samples_of(parts: list[PlanPart]) -> list[tuple[int, int, list[tuple[int, int, int]]]]:
    """(source, epoch, [(document, offset, length)]) of every sample."""
    return [
        (
            int(part.source[i]),
            int(part.epoch[i]),
            list(
                zip(
                    *(
                        column[part.span_offsets[i] : part.span_offsets[i + 1]].tolist()
                        for column in (part.document, part.offset, part.length)
                    ),
                    strict=True,
                )
            ),
        )
        for part in parts
        for i in range(part.num_samples)
    ]
