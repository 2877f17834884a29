"""What kind of thing each token of a vocabulary is, from the tokenizer's own strings.

`statistics` counts by these kinds without any tagger, so they hold for every language and need nothing installed.
"""

import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.corpus.manifest import TokenizerInfo

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN_TYPES = (
    "special",
    "needle",
    "newline",
    "whitespace",
    "number",
    "word start",
    "continuation",
    "punctuation",
    "symbol",
    "bytes",
)
"""Names of the types. A token is of the first that fits, in the order of `_type_of`."""
_SPACE_MARKS = ("\u0120", "\u2581")
"""What byte-level and SentencePiece vocabularies write for the space before a word."""


class VocabularyTypes(NamedTuple):
    """names of the types, and the place of each token's type among them, int16 [vocab_size]."""

    names: tuple[str, ...]
    type_of: NDArray[np.int16]


def vocabulary_types(tokenizer: "PreTrainedTokenizerBase", info: TokenizerInfo) -> VocabularyTypes:
    """The type of every id below `info.vocab_size`; ids that the vocabulary leaves out count as special."""
    special = set(tokenizer.all_special_ids)
    ids = range(info.vocab_size)
    strings = tokenizer.convert_ids_to_tokens(list(ids))
    texts = tokenizer.batch_decode(
        [[number] for number in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    type_of = np.empty(info.vocab_size, np.int16)
    for number, string, text in zip(ids, strings, texts, strict=True):
        if number in special or string is None:
            name = "special"
        elif info.needle_first_id is not None and number >= info.needle_first_id:
            name = "needle"
        else:
            name = _type_of(string, text)
        type_of[number] = TOKEN_TYPES.index(name)
    return VocabularyTypes(TOKEN_TYPES, type_of)


def _type_of(string: str, text: str) -> str:
    # The decoder drops the space before a SentencePiece word; the string keeps its mark.
    has_space = text[:1].isspace() or string.startswith(_SPACE_MARKS)
    core = text.strip()
    if not core:
        return "newline" if "\n" in text or "\r" in text else "whitespace"
    if "\ufffd" in core:
        return "bytes"
    if any(letter.isalpha() for letter in core):
        return "word start" if has_space else "continuation"
    if any(letter.isnumeric() for letter in core):
        return "number"
    if all(unicodedata.category(letter).startswith("S") for letter in core):
        return "symbol"
    return "punctuation"
