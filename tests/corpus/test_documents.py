"""Documents that are made (tables, interleaved text) or framed by a template (chat), through `prepare` as a whole."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.config.corpus import Corpus, InterleavedSource
from longspan.corpus.chat import chat_documents
from longspan.corpus.encoding import encode
from longspan.corpus.manifest import Manifest
from longspan.corpus.messages import ChatFormat
from longspan.corpus.prepare import DoUnit, prepare
from longspan.corpus.synthesis.interleave import fill_windows, interleave, shuffle_chunks, token_indices
from longspan.corpus.synthesis.synl import SynlSettings, synl_document
from longspan.corpus.tokenizer import open_tokenizer
from longspan.corpus.units import Unit, list_units
from longspan.corpus.work import UnitResult
from longspan.errors import ConfigError, DataError
from tests.corpus.conftest import Prepared, contents, corpus_config, documents_of, rows_of, sentences

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)
SYNL = {"type": "synl", "name": "tables", "documents": 9, "lengths": [2500, 4000], "questions": 2, "formats": ["csv"]}
MARKS = {"head": " ...", "name_open": "<", "name_close": ">", "recall_open": "names:", "recall_between": ","}
CIP = {"type": "interleaved", "name": "cip", "text_source": "lines", "window": 700}


def records() -> list[dict[str, Any]]:
    """Conversations and pairs; the last two have nothing to learn from or are too long."""
    talks: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": sentences(number, 2)},
                {"role": "assistant", "content": sentences(50 + number, 1).strip()},
            ]
            * (1 + number % 2)
        }
        for number in range(7)
    ]
    talks[3]["messages"][0]["content"] = "it may <|eos|> not end itself"
    talks.append({"messages": [{"role": "user", "content": "the last word"}]})
    talks.append({"messages": [{"role": "user", "content": "a" * 999}, {"role": "assistant", "content": "we"}]})
    return talks


def chat_source(path: Path, **changes: Any) -> dict[str, Any]:
    return {"type": "chat", "name": "talks", "paths": [str(path)], "template": TEMPLATE, "max_tokens": 400, **changes}


def lines_source(prepared: Prepared) -> dict[str, Any]:
    path = str(prepared.folder / "lines.jsonl")
    return {"type": "jsonl", "name": "lines", "paths": [path], "text_field": "body"}


def make(prepared: Prepared, output: Path, *sources: dict[str, Any], **changes: Any) -> tuple[Corpus, Manifest]:
    """A corpus of these sources and conftest's lines, with its tokenizer."""
    tokenizer = {"path": f"{prepared.uri}/tokenizer", **changes.pop("tokenizer", {})}
    config = corpus_config(output, output, sources=[*sources, lines_source(prepared)], tokenizer=tokenizer, **changes)
    return config, prepare(config)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_tables_have_loss_on_their_answers_and_the_eos(prepared: Prepared, tmp_path: Path, split: str) -> None:
    config, manifest = make(prepared, tmp_path / "out", {**SYNL, "split": split}, seed=3)
    tokenizer: Any = open_tokenizer(config.output, manifest)
    settings = SynlSettings((2500, 4000), 2, formats=("csv",), split="eval" if split == "eval" else "train")
    key = [3, 22, int.from_bytes(b"tables", "little")]
    found = documents_of(config.output, "tables")
    assert len(found) == 9
    for number, (tokens, weight) in enumerate(found):
        assert weight is not None
        made = synl_document(settings, key, number, lambda text: next(encode(tokenizer, [text])).size + 2)
        assert tokenizer.decode(tokens[1:-1]) == made.text
        assert tokens.size == made.num_tokens <= 4000
        assert (tokens[0], weight[0], tokens[-1], weight[-1]) == (tokenizer.bos_token_id, 0, tokenizer.eos_token_id, 1)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], weight[:-1], [0]])))
        taught = [tokenizer.decode(tokens[a:b]).strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
        assert taught == [question.answer for question in made.questions]
    assert {2500, 4000} == {2500 if tokens.size <= 2500 else 4000 for tokens, _ in found}


def test_tables_need_room_and_a_fast_tokenizer_before_anything_is_made(prepared: Prepared, tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(ConfigError, match=r"^sources\.0: SynL lengths: 40 tokens have no room for the csv table"):
        make(prepared, tmp_path / "a", {**SYNL, "lengths": [5000, 40]})
    ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    with pytest.raises(ConfigError, match=r"^sources\.0: SynL needs a fast tokenizer, .*; give the path of") as caught:
        make(prepared, tmp_path / "b", SYNL, tokenizer={"path": str(tmp_path / "slow")})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("method", [{}, {"chunks": 3, "cut": "equal"}, {"method": "utk", "chunks": [2, 4]}])
def test_windows_hold_all_of_the_text_and_no_target_follows_a_splice(
    prepared: Prepared, tmp_path: Path, method: dict[str, Any], frame: bool
) -> None:
    # 1 window a unit, so that units begin inside documents; shards of 2500 tokens, so that documents lie in several.
    changes = {"tokenizer": {"add_bos": frame}, "unit_bytes": 2800, "seed": 7}
    config, manifest = make(prepared, tmp_path / "out", {**CIP, **method}, **changes)
    source = config.sources[0]
    assert isinstance(source, InterleavedSource)
    bos = int(frame)
    texts = [tokens[bos:] for tokens, _ in documents_of(config.output, "lines")]
    text, length = np.concatenate(texts), np.array([tokens.size for tokens in texts])
    window, pieces = fill_windows(length, np.full(text.size // (700 - bos), 700 - bos))
    document = np.repeat(np.arange(length.size), length)
    found = documents_of(config.output, "cip")
    assert len(found) == text.size // (700 - bos) == manifest.sources["cip"].documents
    assert sum(shard.source == "lines" for shard in manifest.shards) > 2
    some = 0
    for number, (tokens, weight) in enumerate(found):
        rng = np.random.default_rng([7, 23, int.from_bytes(b"cip", "little"), number])
        sizes = pieces.length[window == number]
        if source.method == "utk":
            order = shuffle_chunks(rng, sizes, chunks=(2, 4))
        else:
            order = interleave(rng, sizes, chunks=source.chunks or 2, cut=source.cut)
        place = token_indices(order, np.cumsum(sizes) - sizes) + number * (700 - bos)
        assert sorted(place) == list(range(number * (700 - bos), (number + 1) * (700 - bos)))
        assert tokens[bos:].tolist() == text[place].tolist()
        follows = (np.diff(place) == 1) & (np.diff(document[place]) == 0)
        assert weight is not None
        assert weight[bos + 1 :].tolist() == follows.tolist()
        is_first = place[0] == 0 or document[place[0] - 1] != document[place[0]]
        assert weight[: bos + 1].tolist() == ([0, float(is_first)] if frame else [0])
        some += int(np.sum(~follows))
    assert some > 2 * len(found)
    if frame:  # documents keep the eos at their own end
        tokenizer: Any = open_tokenizer(config.output, manifest)
        assert np.mean(np.concatenate([tokens for tokens, _ in found]) == tokenizer.bos_token_id) == 1 / 700


def test_too_little_text_for_a_window_is_said(prepared: Prepared, tmp_path: Path) -> None:
    message = r"^source cip: text of lines: \d+ tokens do not fill a window of 1000000; give it more text, or a smaller"
    with pytest.raises(DataError, match=message):
        make(prepared, tmp_path / "out", {**CIP, "window": 10**6})


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_conversations_are_framed_by_their_template(prepared: Prepared, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "data" / f"talks.{kind}"
    file.parent.mkdir()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{**talk, "id": 5} for talk in records()]), file, row_group_size=2)
    else:
        lines = "".join(json.dumps(talk) + "\n" for talk in records()).encode()
        file.write_bytes(gzip.compress(lines) if kind == "jsonl.gz" else lines)
    config, manifest = make(prepared, tmp_path / "out", chat_source(file.parent), unit_bytes=400)
    assert (len(list_units(config)["talks"]) > 2) == (kind != "jsonl.gz")
    tokenizer: Any = open_tokenizer(config.output, manifest)
    form = ChatFormat(template=TEMPLATE, max_tokens=400)
    expected = [made for talk in records() for made in chat_documents(tokenizer, talk, form)]
    found = documents_of(config.output, "talks")
    assert (len(found), manifest.sources["talks"].skipped) == (7, 2)
    for (tokens, weight), made in zip(found, expected, strict=True):
        assert weight is not None
        assert made.loss_weight is not None
        assert tokens.tolist() == made.tokens.tolist()
        assert weight.tolist() == made.loss_weight.tolist()
    tokens, weight = found[3]
    text = tokenizer.decode(tokens)
    assert text.startswith("user\nit may <|eos|> not end itself")
    assert np.sum(tokens == tokenizer.eos_token_id) == 4
    assert weight is not None
    answer = records()[3]["messages"][1]["content"] + "<|eos|>"
    assert tokenizer.decode(tokens[weight > 0]) == 2 * answer


def test_a_bad_conversation_is_named_with_its_place(prepared: Prepared, tmp_path: Path) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    for number, (line, message) in enumerate(
        [
            (
                '{"text": "a"}',
                r"talks\.jsonl, line 2: neither 'messages' nor 'prompt' with 'response'; it has \['text'\]",
            ),
            ("{", r"talks\.jsonl, line 2: not valid JSON"),
            ("[]", r"talks\.jsonl, line 2: a record is an object, not list"),
            ('{"prompt": "a", "response": "\\ud800"}', r"line 2: field 'response' holds half a surrogate pair"),
        ]
    ):
        (tmp_path / "talks.jsonl").write_text(f"{good}\n{line}\n")
        with pytest.raises(DataError, match=message):
            make(prepared, tmp_path / f"out{number}", chat_source(tmp_path / "talks.jsonl"))
    pq.write_table(pa.table({"prompt": ["a", None], "response": ["b", "c"]}), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match=r"pairs\.parquet, row 1: neither 'messages' nor 'prompt'"):
        make(prepared, tmp_path / "rows", chat_source(tmp_path / "pairs.parquet"))
    pq.write_table(pa.table({"other": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet, row 0: neither 'messages' .* it has \['other'\]"):
        make(prepared, tmp_path / "other", chat_source(tmp_path / "other.parquet"))


def test_chat_needs_a_template_and_answers(prepared: Prepared, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text('{"messages": []}\n{"prompt": "long question", "response": "long answer"}\n')
    with pytest.raises(ConfigError, match=r"^sources\.0: chat: the tokenizer has no chat template"):
        make(prepared, tmp_path / "a", chat_source(file, template=None))
    assert not (tmp_path / "a").exists()
    message = r"^source talks: none of its 2 conversations has an answer of the assistant that fits max_tokens 5; check"
    with pytest.raises(DataError, match=message):
        make(prepared, tmp_path / "b", chat_source(file, max_tokens=5))


class Stopped(Exception):
    """Stands for whatever ends a run."""


def every_type(prepared: Prepared, folder: Path, output: Path, unit_bytes: int) -> Corpus:
    (folder / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in records()))
    needles = {"type": "needles", "name": "needles", "text_source": "lines", "length": 200, "documents": 5}
    tables = {**SYNL, "documents": 3, "lengths": [2500]}
    utk = {**CIP, "name": "utk", "method": "utk", "share": 0.6, "marks": MARKS, "names": True, "keep_order": False}
    made = [CIP, utk, tables, chat_source(folder / "talks.jsonl"), needles]
    sources = [*made, lines_source(prepared)]
    tokenizer = {"train_vocab_size": 300, "needle_tokens": True}
    return corpus_config(folder, output, sources=sources, tokenizer=tokenizer, unit_bytes=unit_bytes)


def test_every_type_gives_the_same_bytes_in_any_order_and_interrupted_anywhere(
    prepared: Prepared, tmp_path: Path
) -> None:
    def backwards(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        return map(do_unit, reversed(units))

    def three_units(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        for unit in units[:3]:
            done.append(unit.name)
            yield do_unit(unit)
        if len(units) > 3:
            raise Stopped

    done: list[str] = []
    manifest = prepare(every_type(prepared, tmp_path, tmp_path / "a", 5000))
    expected = contents(str(tmp_path / "a"))
    assert list(manifest.sources) == ["cip", "utk", "tables", "talks", "needles", "lines"]
    prepare(every_type(prepared, tmp_path, tmp_path / "b", 5000), run_units=backwards)
    assert contents(str(tmp_path / "b")) == expected
    config, stops = every_type(prepared, tmp_path, tmp_path / "c", 5000), 0
    while not storage.exists(f"{config.output}/manifest.json"):
        try:
            prepare(config, run_units=three_units)
        except Stopped:
            stops += 1
    assert stops > 3
    assert len(set(done)) == len(done)
    assert contents(config.output) == expected


def test_every_type_gives_the_same_documents_in_units_of_any_size(prepared: Prepared, tmp_path: Path) -> None:
    config = every_type(prepared, tmp_path, tmp_path / "a", 2000)
    small, large = prepare(config), prepare(every_type(prepared, tmp_path, tmp_path / "b", 10**9))
    assert len(small.shards) > len(large.shards)
    assert small.sources == large.sources
    for source in small.sources:
        assert rows_of(str(tmp_path / "a"), source) == rows_of(str(tmp_path / "b"), source)
