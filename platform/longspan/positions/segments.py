"""Where the segments of a text begin, from its tokens alone.

Runs after selection and refill (never before: gaps and sentences must coincide) and feeds `assign`.
"""

import numpy as np
import numpy.typing as npt

from longspan.errors import DataError
from longspan.positions.methods import IntArray


def segment_starts(tokens: IntArray, ends_sentence: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Token indices at which a new segment begins: after every run of tokens whose text ends a sentence.

    A run (".", then two newlines) closes one segment, not three: a gap inside it would teach nothing. The lookup comes
    from the tokeniser, so it holds for any vocabulary; LongRecipe's code has five fixed ids of one tokeniser.

    Args:
        tokens: [num_tokens] token ids, one document or a packed sample (`sample_positions` adds document starts).
        ends_sentence: [vocab_size] bool, True where the token's text ends a sentence.

    Returns:
        int64 [num_segments], strictly increasing, first 0; empty for no tokens.

    Raises:
        DataError: a token id outside the lookup.
    """
    if len(tokens) == 0:
        return np.zeros(0, dtype=np.int64)
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= len(ends_sentence):
        raise DataError(
            f"token id {lowest if lowest < 0 else highest} is outside the vocabulary of {len(ends_sentence)}; "
            "the tokens come from another tokeniser than the sentence lookup"
        )
    ends = ends_sentence.take(tokens)
    boundaries = np.flatnonzero(ends[:-1] > ends[1:]) + 1
    return np.concatenate([np.zeros(1, dtype=np.int64), boundaries])
