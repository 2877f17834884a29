"""Untie-the-Knots in the `interleaved` source: marks and names in the tokens of a real tokenizer, and room for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longspan.config.corpus import InterleavedSource, Tokenizer
from longspan.corpus.encoding import encode
from longspan.corpus.prepare import prepare
from longspan.corpus.synthesis.interleave import fill_windows
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.corpus.tokenizer import open_tokenizer, train_tokenizer
from longspan.corpus.windows import NAME_TOKENS, open_knots, text_of_windows, window_document, window_rng
from longspan.corpus.writer import Document
from longspan.errors import ConfigError
from tests.corpus.conftest import Prepared, corpus_config, documents_of, sentences

NEEDLES = NeedleVocabulary(first_id=0).tokens()
HEAD, TAIL, OPEN, CLOSE, RECALL, END = NEEDLES[:6]
BETWEEN = " and then "
"""Special tokens, and a text of several ordinary ones."""
MARKS = {
    "head": HEAD,
    "tail": TAIL,
    "name_open": OPEN,
    "name_close": CLOSE,
    "recall_open": RECALL,
    "recall_between": BETWEEN,
    "recall_close": END,
}
TEXT = 10_000
"""Ids from here on are text in the tests: no vocabulary holds them, so what is text and what is a mark shows."""
TOKENIZER: Any = train_tokenizer([sentences(0, 400)], Tokenizer(train_vocab_size=300, needle_tokens=True))
KEY = [5, 23, 7]


def source_of(**changes: Any) -> InterleavedSource:
    values = {"type": "interleaved", "name": "utk", "text_source": "lines", "window": 200, "method": "utk", **changes}
    return InterleavedSource.model_validate(values)


SOURCES = st.builds(
    source_of,
    window=st.integers(150, 400),
    chunks=st.sampled_from([2, 3, (1, 3), (2, 4)]),
    cut=st.sampled_from(["random", "equal"]),
    share=st.sampled_from([1.0, 0.5, 0.0]),
    keep_order=st.booleans(),
    marks=st.sampled_from(
        [MARKS, {name: text for name, text in MARKS.items() if name not in ("tail", "recall_close")}]
    ),
    names=st.just(True),
)


def made(source: InterleavedSource, lengths: list[int], num_bos: int) -> list[Document]:
    """All windows of documents of consecutive ids from TEXT on, each in turn."""
    knots = open_knots(source, TOKENIZER, num_bos)
    length = np.array(lengths, np.int64)
    sizes = text_of_windows(source, [length[:3] + num_bos, length[3:] + num_bos], num_bos, knots, KEY)
    window, pieces = fill_windows(length, sizes)
    first = TEXT + np.cumsum(length) - length
    bos = np.full(num_bos, 2, np.uint32)
    documents = []
    for number in range(sizes.size):
        own = np.flatnonzero(window == number)
        begins = (first[pieces.document] + pieces.start)[own]
        texts = [np.arange(b, b + n, dtype=np.uint32) for b, n in zip(begins, pieces.length[own], strict=True)]
        goes_on = (pieces.start[own] > 0).tolist()
        documents.append(window_document(source, window_rng(KEY, number), texts, goes_on, bos, knots))
    return documents


def spelled(tokens: NDArray[np.uint32]) -> str:
    """The window as text, every run of text tokens as [first-last]."""
    parts = []
    for run in np.split(tokens, np.flatnonzero((np.diff(tokens.astype(int)) != 1) | (tokens[1:] <= TEXT)) + 1):
        parts.append(f"[{run[0]}-{run[-1]}]" if run[0] >= TEXT else TOKENIZER.decode(run))
    return "".join(parts)


@settings(max_examples=60)
@given(source=SOURCES, lengths=st.lists(st.integers(1, 300), min_size=4, max_size=25), num_bos=st.integers(0, 1))
def test_every_text_token_is_there_once_and_no_window_is_exceeded(
    source: InterleavedSource, lengths: list[int], num_bos: int
) -> None:
    documents = made(source, lengths, num_bos)
    text = [document.tokens[document.tokens >= TEXT].astype(int) for document in documents]
    ends, knots = TEXT + np.cumsum(lengths), open_knots(source, TOKENIZER, num_bos)
    assert knots is not None
    seen = TEXT
    for document, own in zip(documents, text, strict=True):
        assert own.size + num_bos <= document.tokens.size <= source.window
        assert np.sort(own).tolist() == list(range(seen, seen + own.size))
        seen += own.size
        if source.keep_order or source.share == 0:
            owner = np.searchsorted(ends, own, side="right")
            assert all((np.diff(own[owner == number]) == 1).all() for number in np.unique(owner))
        if source.share == 0:
            assert document.tokens.size == source.window
            assert own.tolist() == list(range(seen - own.size, seen))
    assert ends[-1] - seen < source.window, "only what fills no window is left out"


@settings(max_examples=60)
@given(source=SOURCES, lengths=st.lists(st.integers(1, 300), min_size=4, max_size=25))
def test_recalled_names_are_those_of_the_chunks_and_weights_say_what_is_learned(
    source: InterleavedSource, lengths: list[int]
) -> None:
    ends = TEXT + np.cumsum(lengths)
    for document in made(source, lengths, 1):
        tokens, weight = document.tokens, document.loss_weight
        assert weight is not None
        assert (weight.dtype.name, weight.size) == ("float32", tokens.size)
        chunks: dict[int, dict[int, str]] = {}
        whole = spelled(tokens)
        for part in whole.split(OPEN)[1:]:
            name, rest = part.split(CLOSE, 1)
            assert len(name) == 6
            begin = int(rest.split("[")[1].split("-")[0])
            chunks.setdefault(int(np.searchsorted(ends, begin, side="right")), {})[begin] = name
        recalls = [part.split(END)[0].split("[")[0] for part in whole.split(RECALL)[1:]]
        expected = [BETWEEN.join(name for _, name in sorted(named.items())) for named in chunks.values()]
        if source.marks and source.marks.recall_close is not None:
            assert sorted(recalls) == sorted(expected)
        assert len(recalls) == len(chunks)
        assert all(len(named) > 1 for named in chunks.values())
        names = [name for named in chunks.values() for name in named.values()]
        assert len(set(names)) == len(names)
        goes_on = np.concatenate([[False], np.diff(tokens.astype(int)) == 1])
        is_text = tokens >= TEXT
        assert not weight[is_text & ~goes_on][1:].any(), "nothing tells of a token behind a splice or a mark"
        taught = TOKENIZER.decode(tokens[(weight == 1) & ~is_text])
        assert OPEN not in taught
        assert RECALL not in taught
        assert HEAD not in taught
        assert all(taught.count(name) == 1 for name in names)
        assert taught.count(BETWEEN) == len(names) - len(chunks)


def test_windows_of_the_corpus_hold_the_marks_of_its_tokenizer(prepared: Prepared, tmp_path: Path) -> None:
    lines = {"type": "jsonl", "name": "lines", "paths": [str(prepared.folder / "lines.jsonl")], "text_field": "body"}
    utk = {"type": "interleaved", "name": "utk", "text_source": "lines", "window": 700, "method": "utk", "chunks": 2}
    sources = [{**utk, "share": 0.5, "marks": MARKS, "names": True}, lines]
    path = {"path": f"{prepared.uri}/tokenizer"}
    config = corpus_config(tmp_path, tmp_path / "out", sources=sources, tokenizer=path, unit_bytes=6000)
    manifest = prepare(config)
    tokenizer: Any = open_tokenizer(config.output, manifest)
    between = next(encode(tokenizer, [BETWEEN])).tolist()
    assert len(between) > 1
    found = documents_of(config.output, "utk")
    ids = tokenizer.convert_tokens_to_ids([OPEN, RECALL])
    knotted = [bool(np.isin(ids, tokens).all()) for tokens, _ in found]
    assert 0 < sum(knotted) < len(found)
    for (tokens, weight), is_knotted in zip(found, knotted, strict=True):
        assert weight is not None
        assert tokens.size <= 700
        assert (tokens.size == 700) or is_knotted
        assert not weight[np.isin(tokens, ids)].any()
        assert tokens[0] == tokenizer.bos_token_id
    text = np.concatenate([tokens[1:] for tokens, _ in documents_of(config.output, "lines")])
    marks = tokenizer.convert_tokens_to_ids(list(NEEDLES[:6]))
    plain = np.concatenate(
        [tokens[1:] for (tokens, _), is_knotted in zip(found, knotted, strict=True) if not is_knotted]
    )
    assert not np.isin(plain, marks).any()
    assert manifest.sources["utk"].tokens > 0.9 * text.size


def test_what_has_no_room_or_no_token_is_said_before_anything_is_made(prepared: Prepared, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    room = 2 * 2 + 3 * (1 + NAME_TOKENS + 1) + 1 + 3 * NAME_TOKENS + 2 * len(next(encode(TOKENIZER, [BETWEEN]))) + 1
    knots = open_knots(source_of(marks=MARKS, names=True, window=room + 1), TOKENIZER, 0)
    assert knots is not None
    assert knots.room == room
    with pytest.raises(ConfigError, match=rf"^window: {room} tokens have no room for the marks .* in 3 chunks, {room}"):
        open_knots(source_of(marks=MARKS, names=True, window=room), TOKENIZER, 0)

    words = Backend(models.WordLevel({"[UNK]": 0, "the": 1, "<a>": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    few = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    given_names = dict.fromkeys(("name_open", "name_close", "recall_open"), "<a>")
    with pytest.raises(ConfigError, match=r"^marks\.tail: the tokenizer has no token for 'novel'; give another text$"):
        open_knots(source_of(marks={"head": "the", "tail": "novel"}), few, 0)
    with pytest.raises(ConfigError, match=r"^names: the tokenizer writes the name \w{6} in 1 tokens, or not at all"):
        open_knots(source_of(marks=given_names, names=True), few, 0)
    few.save_pretrained(tmp_path / "few")
    sources = [
        source_of(marks={"tail": "novel"}).model_dump(),
        {"type": "jsonl", "name": "lines", "paths": [str(prepared.folder / "lines.jsonl")], "text_field": "body"},
    ]
    path = {"path": str(tmp_path / "few")}
    with pytest.raises(ConfigError, match=r"^sources\.0: marks\.tail: the tokenizer has no token"):
        prepare(corpus_config(tmp_path, tmp_path / "out", sources=sources, tokenizer=path))
    assert not (tmp_path / "out").exists()
