"""After which tokens LongRecipe may open a gap: the lookup that `source` and `launch.survey` give to `batch`."""

import numpy as np
from numpy.typing import NDArray

from longspan.corpus.manifest import Manifest
from longspan.corpus.tokenizer import open_tokenizer
from longspan.positions import LongRecipe, PositionMethod

_SPACES = " \t\r\u00a0\u3000"


def segment_ends(manifest_uri: str, manifest: Manifest, method: PositionMethod) -> NDArray[np.bool_]:
    """bool [vocab_size], True where the token's text ends a segment of the method.

    Sentences are those of the manifest. A paragraph ends with its line: with a token whose text ends with a line break,
    spaces after it aside. Such tokens are found by decoding the vocabulary of the corpus' own tokenizer.

    Raises:
        DataError: paragraphs are asked for, and the corpus' tokenizer is missing or damaged.
    """
    if not (isinstance(method, LongRecipe) and method.segments == "paragraph"):
        return manifest.ends_sentence()
    tokenizer = open_tokenizer(manifest_uri, manifest)
    texts = tokenizer.batch_decode(
        [[number] for number in range(manifest.tokenizer.vocab_size)],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    ends = np.array([text.rstrip(_SPACES).endswith("\n") for text in texts], dtype=np.bool_)
    ends[tokenizer.all_special_ids] = False
    return ends
