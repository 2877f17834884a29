import re
import sys
from types import ModuleType

import numpy as np
import pytest

from longspan.corpus.manifest import load_manifest
from longspan.corpus.tokenizer import open_tokenizer
from longspan.errors import ConfigError
from longspan.impact.part_of_speech import open_tagger, token_tags
from longspan.impact.tally import SpeechTally
from tests.impact.conftest import TextMaterial


def tag_words(text: str) -> list[tuple[int, int, str]]:
    """A small tagger: numbers and words."""
    return [(m.start(), m.end(), "NUM" if m[0].isdigit() else "NOUN") for m in re.finditer(r"\w+", text)]


def test_tokens_take_the_tag_of_their_word(text_material: TextMaterial) -> None:
    manifest = load_manifest(text_material.corpus)
    tokenizer = open_tokenizer(text_material.corpus, manifest)
    text = "Geese fly, 1024\u00e9 ponds.\n  7"
    tokens = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    is_text = np.ones(manifest.tokenizer.vocab_size, bool)
    eos = tokenizer.convert_tokens_to_ids("<|eos|>")
    is_text[eos] = False
    tags = token_tags(np.concatenate([[eos], tokens, [eos], tokens]), tokenizer, is_text, tag_words)
    assert tags is not None
    assert tags[: 1 + tokens.size] == tags[1 + tokens.size :]
    assert tags[0] == "X"
    shown = [(str(tokenizer.decode([token])).strip(), tag) for token, tag in zip(tokens, tags[1:], strict=False)]
    assert {tag for string, tag in shown if string.isdigit()} == {"NOUN", "NUM"}  # 1024é is one word
    assert shown[-1] == ("7", "NUM")
    assert {tag for string, tag in shown if string in (",", ".")} == {"X"}
    assert {tag for string, tag in shown if string == ""} == {"SPACE"}
    assert {tag for string, tag in shown if string.isalpha() and string.isascii()} == {"NOUN"}


def test_long_texts_are_tagged_in_pieces(text_material: TextMaterial) -> None:
    manifest = load_manifest(text_material.corpus)
    tokenizer = open_tokenizer(text_material.corpus, manifest)
    is_text = np.ones(manifest.tokenizer.vocab_size, bool)
    for text in ("the geese 12\n" * 9000, "the geese 12 " * 9000):
        seen: list[int] = []

        def counted(piece: str, seen: list[int] = seen) -> list[tuple[int, int, str]]:
            seen.append(len(piece))
            return tag_words(piece)

        tokens = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
        tags = token_tags(tokens, tokenizer, is_text, counted)
        assert len(seen) > 1
        assert max(seen) <= 50_000
        assert sum(seen) == len(text)
        whole = token_tags(tokens[: tokens.size // 9000 * 2], tokenizer, is_text, tag_words)
        assert tags is not None
        assert whole is not None
        assert tags.count("NUM") * 2 == whole.count("NUM") * 9000


def test_tokens_that_their_text_does_not_give_again_have_no_places(text_material: TextMaterial) -> None:
    manifest = load_manifest(text_material.corpus)
    tokenizer = open_tokenizer(text_material.corpus, manifest)
    is_text = np.ones(manifest.tokenizer.vocab_size, bool)
    letters = np.array(tokenizer.convert_tokens_to_ids(["g", "e", "e", "s", "e"]))  # which the vocabulary has as fewer
    assert token_tags(letters, tokenizer, is_text, tag_words) is None

    tally = SpeechTally(tokenizer, is_text, tag_words)
    scored = np.ones(letters.size, bool)
    tally.add(letters, np.zeros(letters.size), scored, ~scored)
    assert (tally.untagged, tally.counts()) == (0, ())  # nothing of it is to be counted
    tally.add(letters, np.zeros(letters.size), scored, scored)
    assert (tally.untagged, tally.counts()) == (1, ())


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("spacy", "spacy", r"spaCy is not installed; pip install spacy, then python -m spacy download en_core_web_sm"),
        ("spacy:de_core_news_sm", "spacy", r"python -m spacy download de_core_news_sm"),
        ("nltk", "nltk", r"NLTK is not installed; pip install nltk"),
    ],
)
def test_a_library_that_is_missing_is_named(
    name: str, module: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_module: ModuleType | None = None  # what the import system takes for "cannot be imported"
    monkeypatch.setitem(sys.modules, module, no_module)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        open_tagger(name)


def test_another_tagger_is_refused() -> None:
    for name in ("stanza", "nltk:x", ""):
        with pytest.raises(ConfigError, match=f"tagger '{name}': must be spacy, spacy:MODEL or nltk"):
            open_tagger(name)
