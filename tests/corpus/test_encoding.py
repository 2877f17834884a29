"""What a text becomes: the ids of its pieces are those of the whole, and marks become what was asked for."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from longspan.config.corpus import Tokenizer
from longspan.corpus import encoding
from longspan.corpus.encoding import cut_text, encode, encode_with_offsets, is_divisible, plain_added_tokens
from longspan.corpus.tokenizer import train_tokenizer
from tests.corpus.conftest import sentences

TEXTS = [sentences(number, 60) for number in range(4)]
PATTERNS = sorted(encoding._WORD_PATTERNS, key=len)
NAMES = ["gpt2", "qwen", "llama3"]


def trained(pre_tokenizer: Any, normalizer: Any = None) -> Any:
    """Trained on text with much that words are cut by."""
    base = train_tokenizer(TEXTS, Tokenizer(train_vocab_size=330))
    backend = Backend.from_str(base.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>")


def split(pattern: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


DIVISIBLE = {
    "byte-level": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "digits": lambda: trained(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    **{
        name: lambda pattern=pattern: trained(split(pattern), normalizers.NFC())  # type: ignore[misc]
        for name, pattern in zip(NAMES, PATTERNS, strict=True)
    },
}


@pytest.fixture(scope="module", params=DIVISIBLE)
def divisible(request: pytest.FixtureRequest) -> Any:
    return DIVISIBLE[request.param]()


PARTS = [
    *("the", " model", " a", "s", "'s", "'re", "x y", "1", " 23", "!", ".\n", " ", "  ", "\n", "\t"),
    *("\u00e9", "e\u0301", "\u4e2d", "\u017f"),
]


@settings(max_examples=120, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=40), size=st.integers(0, 9))
@example(parts=["it", "'s", " a", " 's", " a"], size=0)
def test_the_ids_of_the_pieces_are_those_of_the_whole(divisible: Any, parts: list[str], size: int) -> None:
    text = "".join(parts)
    assert is_divisible(divisible)
    pieces = list(cut_text(text, size))
    assert "".join(pieces) == text
    (whole,) = encode(divisible, [text])
    assert np.concatenate(list(encode(divisible, pieces))).tolist() == whole.tolist()


def test_a_long_text_is_encoded_in_pieces(divisible: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = encoding._encode_batch

    def watch(backend: Any, batch: list[str]) -> Any:
        seen.extend(map(len, batch))
        return plain(backend, batch)

    text = TEXTS[0] + TEXTS[1]
    (expected,) = encode(divisible, [text])
    monkeypatch.setattr(encoding, "_encode_batch", watch)
    monkeypatch.setattr(encoding, "_PIECE_CHARACTERS", 300)
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 300)
    (found,) = encode(divisible, [text])
    assert found.tolist() == expected.tolist()
    assert sum(seen) == len(text)
    assert max(seen) < 340


def added(**how: Any) -> Any:
    made = DIVISIBLE["byte-level"]()
    made.add_tokens([AddedToken(how.pop("content", "<think>"), normalized=False, **how)])
    return made


def without_bytes(**changes: Any) -> Any:
    backend = Backend(models.BPE(unk_token="<unk>", vocab={"<unk>": 0, "a": 1}, merges=[]))
    for name, value in changes.items():
        setattr(backend, name, value)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


WHOLE = {
    "prefix space": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "no words": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "another pattern": lambda: trained(split(r"\w+ \w+|.")),
    "metaspace": lambda: without_bytes(pre_tokenizer=pre_tokenizers.Metaspace()),
    "nothing": without_bytes,
    "normalizer": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Replace(" ", "_")),
    "lstrip": lambda: added(lstrip=True),
    "rstrip": lambda: added(rstrip=True),
    "single word": lambda: added(single_word=True),
    "over a cut": lambda: added(content="new york"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_may_reach_over_a_cut_is_encoded_whole(name: str) -> None:
    assert not is_divisible(WHOLE[name]())
    assert is_divisible(added())


def test_added_tokens_become_ids_or_text() -> None:
    """Special ones always text, those of spaces always ids."""
    tokenizer = DIVISIBLE["byte-level"]()
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("   "), AddedToken("\n\n\n", normalized=False)])
    think, spaces, lines = (tokenizer.convert_tokens_to_ids(token) for token in ("<think>", "   ", "\n\n\n"))
    assert plain_added_tokens(tokenizer) == ["<think>"]
    text = "a<think>b   c\n\n\n<|eos|>"
    (ids,) = encode(tokenizer, [text])
    (marks,) = encode(tokenizer, [text], "text")
    assert [token for token in ids if token >= think] == [think, spaces, lines]
    assert [token for token in marks if token >= think] == [spaces, lines]
    assert tokenizer.eos_token_id not in [*ids, *marks]
    for found in (ids, marks):
        assert tokenizer.decode(found, clean_up_tokenization_spaces=False) == text
    assert next(encode(tokenizer, [text])).tolist() == ids.tolist()
    assert encode_with_offsets(tokenizer, text)[0].tolist() == ids.tolist()


def test_a_source_says_what_becomes_of_marks(tmp_path: Any) -> None:
    from longspan.config.corpus import Corpus
    from longspan.corpus.prepare import prepare
    from tests.corpus.conftest import documents_of

    tokenizer = DIVISIBLE["byte-level"]()
    tokenizer.add_tokens([AddedToken("<think>")])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one <think> two"}) + "\n")
    for setting, expected in (({}, 1), ({"added_tokens": "ids"}, 1), ({"added_tokens": "text"}, 0)):
        output = str(tmp_path / f"out{expected}{len(setting)}")
        source = {"type": "jsonl", "name": "a", "paths": [str(tmp_path / "a.jsonl")], **setting}
        values = {"output": output, "tokenizer": {"path": str(tmp_path / "tokenizer")}, "sources": [source]}
        prepare(Corpus.model_validate(values))
        ((tokens, _),) = documents_of(output, "a")
        assert tokens.tolist().count(tokenizer.convert_tokens_to_ids("<think>")) == expected


def test_a_preparation_says_where_memory_is_not_bounded(tmp_path: Any) -> None:
    from longspan.config.corpus import Corpus
    from longspan.corpus.prepare import prepare

    (tmp_path / "a.txt").write_text("a a a")
    for name, made in (("whole", WHOLE["metaspace"]()), ("pieces", DIVISIBLE["byte-level"]())):
        made.save_pretrained(tmp_path / name)
        said: list[str] = []
        source = {"name": "a", "paths": [str(tmp_path / "a.txt")], "max_document_bytes": 10**8}
        values = {"output": str(tmp_path / f"out-{name}"), "tokenizer": {"path": str(tmp_path / name)}}
        prepare(Corpus.model_validate({**values, "sources": [source]}), said.append)
        lines = [line for line in said if line.startswith("tokenizer: a long document cannot be encoded in pieces")]
        assert len(lines) == (name == "whole")
        assert all(line.endswith(" GB for one of max_document_bytes 100000000") for line in lines)


def test_a_slow_tokenizer_says_that_marks_stay_text(tmp_path: Any) -> None:
    from transformers import ByT5Tokenizer

    from longspan.config.corpus import Corpus
    from longspan.corpus.prepare import prepare

    slow = ByT5Tokenizer()
    slow.add_tokens([AddedToken("<think>")])
    slow.save_pretrained(tmp_path / "slow")
    (tmp_path / "a.txt").write_text("a <think> b")
    source = {"name": "a", "paths": [str(tmp_path / "a.txt")]}
    values = {"output": str(tmp_path / "out"), "tokenizer": {"path": str(tmp_path / "slow")}, "sources": [source]}
    said: list[str] = []
    manifest = prepare(Corpus.model_validate(values), said.append)
    assert any(line.endswith("several times slower; its added tokens in texts stay text") for line in said)
    assert manifest.sources["a"].tokens == len("a <think> b") + 1  # bytes, and eos
