"""Where the segments of a text begin, from its tokens alone.

Runs after selection and refill (never before: gaps and sentences must coincide) and feeds `assign`.
"""

import numpy as np
import numpy.typing as npt

from longspan.errors import DataError
from longspan.positions.methods import IntArray


def segment_starts(tokens: IntArray, ends_segment: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Token indices at which a new segment begins: after every run of tokens whose text ends one.

    A run (".", then two newlines) closes one segment, not three: a gap inside it would teach nothing. The lookup comes
    from the tokeniser, so it holds for any vocabulary; LongRecipe's code has five fixed ids of one tokeniser.

    Args:
        tokens: [num_tokens] token ids, one document or a packed sample (`sample_positions` adds document starts).
        ends_segment: [vocab_size] bool, True where the token's text ends a sentence (or a paragraph).

    Returns:
        int64 [num_segments], strictly increasing, first 0; empty for no tokens.

    Raises:
        DataError: a token id outside the lookup.
    """
    if len(tokens) == 0:
        return np.zeros(0, dtype=np.int64)
    ids = tokens.astype(np.int64)
    if int(ids.view(np.uint64).max()) >= len(ends_segment):  # negative ids too: unsigned they are the largest
        lowest, highest = int(ids.min()), int(ids.max())
        raise DataError(
            f"token id {lowest if lowest < 0 else highest} is outside the vocabulary of {len(ends_segment)}; "
            "the tokens come from another tokeniser than the lookup of segment ends"
        )
    # "clip" as all are inside already: it saves a pass.
    ends = ends_segment.take(ids, mode="clip")
    boundaries = np.flatnonzero(ends[:-1] > ends[1:]) + 1
    return np.concatenate([np.zeros(1, dtype=np.int64), boundaries])
