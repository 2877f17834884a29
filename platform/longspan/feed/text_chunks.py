"""PoSE's text offsets: chunks of a longer sample are kept, with the positions that PoSE gives them.

`scores` calls it where a recipe selects chunks instead of sentences; `positions` draws them. Text and positions come
from one draw, so their borders are the same. Nothing here knows a rank, a batch or the order of arrival.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.config.recipe import Recipe
from longspan.corpus.impact.selection import Selection
from longspan.positions import PoSE, text_chunks

_CHUNK_STREAM = 0x905E


@dataclass(frozen=True)
class ChunkRule:
    """How many tokens are kept, and how PoSE draws their chunks.

    Attributes:
        method: with a text offset.
        budget: tokens to keep of a sample.
        target_length: the window to be trained.
        document_mask: True draws chunks of every document by itself; False takes the sample for one document.
    """

    method: PoSE
    budget: int
    target_length: int
    document_mask: bool


def chunk_rule(recipe: Recipe) -> ChunkRule:
    """The rule of a recipe whose `data.selection.mode` is chunks."""
    method = PoSE(**recipe.positions.model_dump(exclude={"type"}, exclude_none=True))
    return ChunkRule(method, recipe.data.sample_length, recipe.data.target_length, recipe.data.document_mask)


def keep_chunks(
    rule: ChunkRule, lengths: NDArray[np.integer], *, seed: int, index: int
) -> tuple[Selection, NDArray[np.float32]]:
    """Exactly min(`rule.budget`, tokens of the sample) tokens of it and their positions, a function of the arguments.

    Args:
        lengths: [num_documents], tokens of each document of the sample.
        seed, index: of the run and of the sample in the whole plan.
    """
    texts = lengths if rule.document_mask else lengths.sum(keepdims=True)
    rng = np.random.default_rng([seed, _CHUNK_STREAM, index])
    chunks = text_chunks(rule.method, texts, rule.budget, rule.target_length, rng)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    return _spans(chunks.starts, chunks.starts + chunks.lengths, starts), chunks.positions


def _spans(begins: NDArray[np.int64], ends: NDArray[np.int64], document_starts: NDArray[np.int64]) -> Selection:
    """The text of the chunks, cut where text was left out between two of them or a document begins, and only there:
    where the text goes on after a chunk, its last token keeps its target.
    """
    goes_on = begins[1:] == ends[:-1]
    begins, ends = begins[np.append(True, ~goes_on)], ends[np.append(~goes_on, True)]
    run = np.searchsorted(begins, document_starts, side="right") - 1
    borders = document_starts[(document_starts > begins[run]) & (document_starts < ends[run])]
    begins, ends = np.sort(np.append(begins, borders)), np.sort(np.append(ends, borders))
    return Selection(begins, ends - begins, np.searchsorted(document_starts, begins, side="right") - 1)
