"""Parts of speech of tokens, by spaCy or NLTK where one is installed: LongRecipe's Figure 4 asks for them.

A tagger is any function from a text to its words; `open_tagger` makes one of an installed library. Neither is needed
for anything else.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tagger = Callable[[str], Sequence[tuple[int, int, str]]]
"""Words of a text as (begin, end, universal part of speech), in characters and in order."""

SPACE, UNKNOWN = "SPACE", "X"
_PIECE_CHARACTERS = 50_000
"""Taggers hold all of a text's words at once: long documents are tagged in pieces, cut at line ends where they can."""


def open_tagger(name: str) -> Tagger:
    """A tagger: `spacy`, `spacy:MODEL` (default en_core_web_sm) or `nltk`.

    Raises:
        ConfigError: another name, or the library or its data is not installed; says what to install.
    """
    library, _, model = name.partition(":")
    if library == "spacy":
        return _spacy(model or "en_core_web_sm")
    if library == "nltk" and not model:
        return _nltk()
    raise ConfigError(f"impact: tagger '{name}': must be spacy, spacy:MODEL or nltk")


def _spacy(model: str) -> Tagger:
    fetch = f"python -m spacy download {model}"
    try:
        import spacy
    except ImportError:
        raise ConfigError(
            f"impact: tagger spacy: spaCy is not installed; pip install 'longspan[spacy]' && {fetch}. Statistics by"
            " token type need no tagger"
        ) from None
    try:
        pipeline: Any = spacy.load(model, exclude=["ner", "lemmatizer"])
    except (OSError, ImportError):
        raise ConfigError(f"impact: tagger spacy: its model {model} is not installed; {fetch}") from None

    def tag(text: str) -> list[tuple[int, int, str]]:
        return [(word.idx, word.idx + len(word), word.pos_ or UNKNOWN) for word in pipeline(text)]

    if all(kind == UNKNOWN for _, _, kind in tag("The 3 geese were there, and they sang.")):
        raise ConfigError(
            f"impact: tagger spacy: its model {model} gives no parts of speech; use one with a tagger, such as"
            " en_core_web_sm"
        )
    return tag


def _nltk() -> Tagger:
    fetch = "python -m nltk.downloader averaged_perceptron_tagger_eng"
    try:
        import nltk
    except ImportError:
        raise ConfigError(
            f"impact: tagger nltk: NLTK is not installed; pip install 'longspan[nltk]' && {fetch}. Statistics by token"
            " type need no tagger"
        ) from None
    try:
        perceptron: Any = nltk.PerceptronTagger()
    except LookupError:
        raise ConfigError(f"impact: tagger nltk: its data is not installed; {fetch}") from None
    splitter, plain_splitter = nltk.NLTKWordTokenizer(), nltk.WordPunctTokenizer()

    def tag(text: str) -> list[tuple[int, int, str]]:
        words = []
        for begin, end in _sentences(text):
            sentence = text[begin:end]
            try:
                spans = list(splitter.span_tokenize(sentence))
            except ValueError:  # it rewrites quotes, and does not always find them again
                spans = list(plain_splitter.span_tokenize(sentence))
            tagged = perceptron.tag([sentence[first:last] for first, last in spans])
            for (first, last), (word, kind) in zip(spans, tagged, strict=True):
                words.append((begin + first, begin + last, _universal(word, kind)))
        return words

    return tag


_SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*\s+|\n\s*\n")


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Ranges of characters, without gaps: NLTK's tokenizer parts a full stop from its word only where its text ends."""
    begin = 0
    for found in _SENTENCE_END.finditer(text):
        yield begin, found.end()
        begin = found.end()
    if begin < len(text):
        yield begin, len(text)


_PENN = {
    "ADJ": "JJ JJR JJS",
    "ADP": "IN RP",
    "ADV": "RB RBR RBS WRB",
    "AUX": "MD",
    "CCONJ": "CC",
    "DET": "DT PDT WDT",
    "INTJ": "UH",
    "NOUN": "NN NNS",
    "NUM": "CD",
    "PART": "POS TO",
    "PRON": "EX PRP PRP$ WP WP$",
    "PROPN": "NNP NNPS",
    "PUNCT": "`` '' , . : ( ) -LRB- -RRB- --",
    "SYM": "# $ SYM",
    "VERB": "VB VBD VBG VBN VBP VBZ",
    "X": "FW LS",
}
"""Universal Dependencies' part of speech of the Penn Treebank's tags, by its conversion table.

NLTK's own `universal` tagset is the older one of twelve, which lacks three that the paper counts (AUX, SYM, INTJ). What
a tag alone does not tell stays with the commoner kind: IN is ADP also where it is SCONJ.
"""
_UNIVERSAL = {tag: kind for kind, tags in _PENN.items() for tag in tags.split()}
_BE = frozenset(["am", "are", "be", "been", "being", "is", "was", "were", "'m", "'re"])
"""Always AUX there; "have" and "do" are so in part, which no tag tells: they stay VERB. "'s" may be "has"."""


def _universal(word: str, tag: str) -> str:
    if tag.startswith("VB") and word.lower() in _BE:
        return "AUX"
    return _UNIVERSAL.get(tag, UNKNOWN)


def token_tags(
    tokens: NDArray[np.integer], tokenizer: "PreTrainedTokenizerBase", is_text: NDArray[np.bool_], tagger: Tagger
) -> list[str] | None:
    """The part of speech of every token of a document: that of the word in which its first character other than space
    lies; SPACE for tokens of space, X for those of no word and those that are no text.

    Args:
        tokens: [num_tokens].
        is_text: bool [vocab_size], False for special and needle tokens, which taggers are not shown.

    Returns:
        [num_tokens], or None where the text of the tokens does not give these tokens again, so that their places in it
        are not known (a tokenizer that normalises, or a document cut inside a character).
    """
    tags: list[str] = []
    shown = is_text[tokens]
    edges = np.flatnonzero(np.diff(shown)) + 1
    for run, is_shown in zip(np.split(tokens, edges), shown[np.append(0, edges)], strict=True):
        if not is_shown:
            tags += [UNKNOWN] * run.size
            continue
        text = str(tokenizer.decode(run.tolist(), clean_up_tokenization_spaces=False))
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if encoded["input_ids"] != run.tolist():
            return None
        words = [word for piece in _pieces(text) for word in _tagged(text, piece, tagger)]
        begins = [word[0] for word in words]
        tags += [_tag_at(text, begin, end, words, begins) for begin, end in encoded["offset_mapping"]]
    return tags


def _tagged(text: str, piece: tuple[int, int], tagger: Tagger) -> Iterator[tuple[int, int, str]]:
    begin, end = piece
    yield from ((begin + first, begin + last, kind) for first, last, kind in tagger(text[begin:end]))


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    begin = 0
    while begin < len(text):
        end = min(begin + _PIECE_CHARACTERS, len(text))
        if end < len(text):
            line_end = text.rfind("\n", begin, end) + 1
            end = line_end or text.rfind(" ", begin, end) + 1 or end
        yield begin, end
        begin = end


def _tag_at(text: str, begin: int, end: int, words: list[tuple[int, int, str]], begins: list[int]) -> str:
    visible = re.compile(r"\S").search(text, begin, end)
    if visible is None:
        return SPACE
    place = bisect_right(begins, visible.start()) - 1
    if place < 0 or words[place][1] <= visible.start():
        return UNKNOWN
    return words[place][2]
