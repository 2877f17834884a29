import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from longspan.corpus.manifest import load_manifest
from longspan.corpus.tokenizer import open_tokenizer
from longspan.errors import ConfigError
from longspan.impact.part_of_speech import _UNIVERSAL, open_tagger, token_tags
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
        (
            "spacy",
            "spacy",
            r"spaCy is not installed; pip install 'longspan\[spacy\]' && python -m spacy download en_core_web_sm\. ",
        ),
        ("spacy:de_core_news_sm", "spacy", r"&& python -m spacy download de_core_news_sm\. "),
        (
            "nltk",
            "nltk",
            r"NLTK is not installed; pip install 'longspan\[nltk\]' && python -m nltk.downloader"
            r" averaged_perceptron_tagger_eng\. ",
        ),
    ],
)
def test_a_library_that_is_missing_is_named(
    name: str, module: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_module: ModuleType | None = None  # what the import system takes for "cannot be imported"
    monkeypatch.setitem(sys.modules, module, no_module)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        open_tagger(name)


PENN = (
    "the/DT old/JJ geese/NNS have/VBP flown/VBN to/TO 37/CD ponds/NNS ./.",
    "they/PRP were/VBD there/RB in/IN Ghent/NNP ,/, and/CC she/PRP sang/VBD ./.",
    "oh/UH ,/, it/PRP must/MD be/VB 5/CD $/$ !/.",
    "who/WP is/VBZ the/DT bird/NN that/WDT counts/VBZ 12/CD eggs/NNS ?/.",
    "they/PRP 're/VBP quickly/RB eating/VBG her/PRP$ bread/NN ;/: he/PRP 's/VBZ not/RB ./.",
)
"""Sentences of our own, tagged by hand as the Penn Treebank tags."""
UNIVERSAL = (
    "DET ADJ NOUN VERB VERB PART NUM NOUN PUNCT",
    "PRON AUX ADV ADP PROPN PUNCT CCONJ PRON VERB PUNCT",
    "INTJ PUNCT PRON AUX AUX NUM SYM PUNCT",
    "PRON AUX DET NOUN DET VERB NUM NOUN PUNCT",
    "PRON AUX ADV VERB PRON NOUN PUNCT PRON VERB ADV PUNCT",
)


@pytest.fixture
def nltk_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where NLTK looks for data."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    return tmp_path


def test_nltk_without_its_data_says_what_to_fetch(nltk_data: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"its data is not installed; python -m nltk.downloader averaged_perceptron_tagger_eng$"
    ):
        open_tagger("nltk")


def test_nltk_gives_universal_parts_of_speech(nltk_data: Path, text_material: TextMaterial) -> None:
    import nltk

    pairs = [[tuple(word.rsplit("/", 1)) for word in sentence.split()] for sentence in PENN]
    trained = nltk.PerceptronTagger(load=False)
    trained.train(pairs, nr_iter=12)
    (nltk_data / "taggers").mkdir()
    trained.save_to_json("eng", str(nltk_data / "taggers" / "averaged_perceptron_tagger_eng"))
    tagger = open_tagger("nltk")
    text = " ".join(word for sentence in pairs for word, _ in sentence).replace(" .", ".")
    found = tagger(text)
    # Each word at its own place, full stops apart from theirs also within the text.
    assert [text[begin:end] for begin, end, _ in found] == [word for sentence in pairs for word, _ in sentence]
    assert [kind for _, _, kind in found] == " ".join(UNIVERSAL).split()

    manifest = load_manifest(text_material.corpus)
    tokenizer = open_tokenizer(text_material.corpus, manifest)
    tokens = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    tags = token_tags(tokens, tokenizer, np.ones(manifest.tokenizer.vocab_size, bool), tagger)
    assert tags is not None
    digits = [tag for token, tag in zip(tokens, tags, strict=True) if str(tokenizer.decode([token])).strip().isdigit()]
    assert digits == ["NUM"] * len(digits)
    assert len(digits) >= 3


def test_every_tag_of_the_penn_treebank_has_its_part_of_speech() -> None:
    words = "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH WDT WP WP$ WRB"
    verbs, marks = "VB VBD VBG VBN VBP VBZ", "# $ `` '' ( ) , . :"
    kinds = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SYM VERB X"
    tags = f"{words} {verbs} {marks}"
    assert {_UNIVERSAL[tag] for tag in tags.split()} == set(kinds.split())
    figure_4 = {"CD": "NUM", "PRP": "PRON", "MD": "AUX", "CC": "CCONJ", "IN": "ADP", "$": "SYM", "UH": "INTJ"}
    assert figure_4 == {tag: _UNIVERSAL[tag] for tag in figure_4}


def test_another_tagger_is_refused() -> None:
    for name in ("stanza", "nltk:x", ""):
        with pytest.raises(ConfigError, match=f"tagger '{name}': must be spacy, spacy:MODEL or nltk"):
            open_tagger(name)
