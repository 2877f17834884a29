"""Rows that cannot be documents end a preparation, or are left out, counted by kind and held to a share."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from longspan import storage
from longspan.config.corpus import Corpus, JsonlSource
from longspan.corpus.bad_rows import BAD_KINDS, LimitWatch
from longspan.corpus.manifest import MANIFEST_FILE, load_manifest
from longspan.corpus.prepare import DoUnit, corpus_fingerprint, prepare
from longspan.corpus.render import render_manifest
from longspan.corpus.units import Unit
from longspan.corpus.work import UnitResult
from longspan.errors import ConfigError, DataError
from tests.corpus.chat_templates import CHATML_TOOLS, TOOL_TALK
from tests.corpus.conftest import Prepared, contents, corpus_config, rows_of, sentences

GOOD = [json.dumps({"text": sentences(i, 4)}).encode() for i in range(60)]
BAD = {
    "not JSON": b'{"text": "x',
    "not UTF-8": b'{"text": "caf\xe9"}',
    "no field": b'{"body": "x"}',
    "not text": b'{"text": null}',
    "over-long": json.dumps({"text": "x " * 2000}).encode(),
}


def config(prepared: Prepared, folder: Path, source: dict[str, Any], output: str = "out", **changes: Any) -> Corpus:
    source = {"name": "rows", "type": "jsonl", "paths": [str(folder / "rows")], **source}
    values = {"sources": [source], "tokenizer": {"path": f"{prepared.uri}/tokenizer"}, **changes}
    return corpus_config(folder, folder / output, **values)


def write_lines(folder: Path, lines: Sequence[bytes]) -> None:
    (folder / "rows").mkdir(exist_ok=True)
    (folder / "rows" / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")


SKIP = {"on_bad": "skip", "max_bad_share": 0.2, "max_document_bytes": 3000}


def test_bad_lines_are_left_out_and_counted_by_kind(prepared: Prepared, tmp_path: Path) -> None:
    lines = list(GOOD)
    for number, bad in enumerate(BAD.values()):
        lines.insert(7 * number + 3, bad)
    write_lines(tmp_path, [*lines, b"", b'{"text": ""}'])
    said: list[str] = []
    manifest = prepare(config(prepared, tmp_path, SKIP), said.append)
    info = manifest.sources["rows"]
    assert info.left_out == {**dict.fromkeys(sorted(BAD), 1), "short": 1}
    assert (info.documents, info.skipped) == (60, 6)
    assert load_manifest(str(tmp_path / "out")) == manifest
    (line,) = (line for line in said if line.startswith("rows: 5 of 66 rows are bad and left out. First: "))
    assert "a.jsonl, line 4: not valid JSON" in line
    write_lines(tmp_path, GOOD)
    prepare(config(prepared, tmp_path, {}, "good"))
    assert rows_of(str(tmp_path / "out"), "rows") == rows_of(str(tmp_path / "good"), "rows")
    shown = io.StringIO()
    Console(file=shown, width=200).print(render_manifest(manifest))
    assert "(rows: 1 no field, 1 not JSON, 1 not UTF-8, 1 not text, 1 over-long, 1 short)" in " ".join(
        shown.getvalue().split()
    )


@pytest.mark.parametrize("kind", BAD)
def test_by_default_a_bad_row_ends_the_preparation(prepared: Prepared, tmp_path: Path, kind: str) -> None:
    write_lines(tmp_path, [*GOOD[:4], BAD[kind]])
    with pytest.raises(DataError, match=r"rows/a\.jsonl(, line 5)?: .* \(on_bad: skip leaves such rows out\)$"):
        prepare(config(prepared, tmp_path, {"max_document_bytes": 3000}))
    assert not (tmp_path / "out" / MANIFEST_FILE).exists()


def write_texts(folder: Path) -> dict[str, Any]:
    (folder / "rows").mkdir()
    for number in range(9):
        (folder / "rows" / f"{number}.txt").write_text(sentences(number, 4))
    (folder / "rows" / "4.txt").write_bytes(b"caf\xe9")
    (folder / "rows" / "7.txt").write_text("x " * 2000)
    return {"type": "text"}


def write_parquet(folder: Path) -> dict[str, Any]:
    texts = [sentences(number, 4) for number in range(7)]
    (folder / "rows").mkdir()
    pq.write_table(pa.table({"text": [*texts[:3], None, *texts[3:], "x " * 2000]}), folder / "rows" / "a.parquet")
    return {"type": "parquet"}


def write_chat(folder: Path) -> dict[str, Any]:
    talks: list[Any] = [{"messages": TOOL_TALK[:1] + TOOL_TALK[3:]}] * 7
    talks.insert(2, {"messages": [{"role": "narrator", "content": "x"}]})
    talks.insert(5, {"messages": TOOL_TALK[:2]})
    write_lines(folder, [json.dumps(talk).encode() for talk in talks])
    template = CHATML_TOOLS.replace("m.tool_calls or []", "[]").replace("<|im_end|>", "<|eos|>")
    return {"type": "chat", "template": template}


@pytest.mark.parametrize(
    ("write", "kinds"),
    [
        (write_texts, {"not UTF-8": 1, "over-long": 1}),
        (write_parquet, {"not text": 1, "over-long": 1}),
        (write_chat, {"lost by template": 1, "no conversation": 1}),
    ],
    ids=["text", "parquet", "chat"],
)
def test_every_type_of_source_leaves_bad_rows_out(
    prepared: Prepared, tmp_path: Path, write: Any, kinds: dict[str, int]
) -> None:
    source = {**SKIP, **write(tmp_path)}
    assert set(kinds) <= BAD_KINDS
    info = prepare(config(prepared, tmp_path, {**source, "max_bad_share": 0.3})).sources["rows"]
    assert (info.documents, info.left_out) == (7, kinds)
    with pytest.raises(
        DataError, match=r"source rows: 2 of the first 9 rows are bad \(1 .*, 1 .*\), more than max_bad_sh"
    ):
        prepare(config(prepared, tmp_path, source, "strict"))


def test_the_limit_names_the_first_bad_rows(prepared: Prepared, tmp_path: Path) -> None:
    write_lines(tmp_path, [*GOOD[:20], BAD["not JSON"], GOOD[20], BAD["no field"]])
    where = rf"{tmp_path}/rows/a\.jsonl, line"
    message = (
        rf"; mend them, or raise max_bad_share\. First: {where} 21: not valid JSON .*; {where} 23: no field 'text'"
    )
    with pytest.raises(DataError, match=message):
        prepare(config(prepared, tmp_path, {"on_bad": "skip", "max_bad_share": 0.05}))
    prepare(config(prepared, tmp_path, {"on_bad": "skip", "max_bad_share": 0.1}))


SMALL = {"unit_bytes": 1500}


def test_a_run_that_met_a_bad_row_resumes_with_on_bad_skip(prepared: Prepared, tmp_path: Path) -> None:
    """What is done stays done, and the bytes are those of a run that skipped from the beginning."""
    write_lines(tmp_path, [*GOOD[:50], BAD["not JSON"], *GOOD[50:]])
    with pytest.raises(DataError, match="not valid JSON"):
        prepare(config(prepared, tmp_path, {}, **SMALL))
    done = len(storage.list_files(str(tmp_path / "out" / "units"))) - 1
    assert done > 3
    said: list[str] = []
    prepare(config(prepared, tmp_path, SKIP | {"max_document_bytes": 256 << 20}, **SMALL), said.append)
    assert any(f"{done} of" in line for line in said)
    prepare(config(prepared, tmp_path, SKIP | {"max_document_bytes": 256 << 20}, "again", **SMALL))
    assert contents(str(tmp_path / "out")) == contents(str(tmp_path / "again"))
    with pytest.raises(
        ConfigError, match=r"output: .* holds this corpus without 1 bad rows of rows, and its on_bad is"
    ):
        prepare(config(prepared, tmp_path, {}, **SMALL))


def test_units_that_skipped_are_refused_by_a_stricter_run(prepared: Prepared, tmp_path: Path) -> None:
    write_lines(tmp_path, [*GOOD[:30], BAD["not JSON"], *GOOD[30:]])

    class Stopped(Exception):
        """Stands for whatever ends a run."""

    def stop(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        yield from map(do_unit, units)
        raise Stopped

    with pytest.raises(Stopped):
        prepare(config(prepared, tmp_path, {"on_bad": "skip", "max_bad_share": 0.05}, **SMALL), run_units=stop)
    with pytest.raises(
        DataError, match=r"\(1 not JSON\), and on_bad is refuse; mend them, or set on_bad: skip\. First"
    ):
        prepare(config(prepared, tmp_path, {}, **SMALL))
    with pytest.raises(DataError, match=r"more than max_bad_share 0\.01"):
        prepare(config(prepared, tmp_path, {"on_bad": "skip"}, **SMALL))
    prepare(config(prepared, tmp_path, {"on_bad": "skip", "max_bad_share": 0.05}, **SMALL))


@pytest.mark.parametrize("resumed", [False, True])
def test_a_source_that_is_all_wrong_is_refused_long_before_its_end(
    prepared: Prepared, tmp_path: Path, resumed: bool
) -> None:
    write_lines(tmp_path, [*GOOD[:10], *[b'{"body": "x"}'] * 5000])
    seen: list[str] = []

    def three(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        yield from map(do_unit, units[:3])

    def count(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        for unit in units:
            seen.append(unit.name)
            yield do_unit(unit)

    corpus = config(prepared, tmp_path, {"on_bad": "skip"}, unit_bytes=4000)
    if resumed:
        with pytest.raises(storage.NotFoundError):
            prepare(corpus, run_units=three)
    with pytest.raises(DataError, match=r"source rows: [\d,]+ of the first 1,[\d]+ rows are bad \([\d,]+ no field\)"):
        prepare(corpus, run_units=count)
    assert len(seen) == (1 if resumed else 4)


@given(counts=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 9))), data=st.data())
def test_the_limit_does_not_depend_on_the_order_of_units(counts: list[tuple[int, int]], data: st.DataObject) -> None:
    source = JsonlSource(type="jsonl", name="a", paths=["x"], on_bad="skip", max_bad_share=0.008)
    counts = [(rows + bad, bad) for rows, bad in counts]
    names = [str(number) for number in range(len(counts))]
    expected = next(
        (
            number
            for number in range(1, len(counts) + 1)
            for rows, bad in [[sum(part) for part in zip(*counts[:number], strict=True)]]
            if bad > 0.008 * rows and (rows >= 1000 or number == len(counts))
        ),
        0,
    )
    for order in (names, data.draw(st.permutations(names))):
        watch = LimitWatch(source, names)
        found = [watch.add(name, *counts[int(name)]) for name in order]
        assert next((number for number in found if number), 0) == expected


def test_old_manifests_and_configurations_are_still_the_same(prepared: Prepared, tmp_path: Path) -> None:
    """Fingerprints as they were before rows were counted by kind and sources had the settings of today."""
    values = json.loads(storage.read_bytes(f"{prepared.uri}/{MANIFEST_FILE}"))
    assert all("left_out" not in source for source in values["sources"].values())
    old = Corpus.model_validate(
        {
            "output": "x",
            "tokenizer": {"path": "y"},
            "sources": [
                {"name": "a", "paths": ["a"]},
                {"type": "jsonl", "name": "b", "paths": ["b"]},
                {"type": "parquet", "name": "c", "paths": ["c"]},
                {"type": "arrow", "name": "d", "paths": ["d"]},
                {"type": "chat", "name": "e", "paths": ["e"]},
            ],
        }
    )
    before = "7c9ffc97f46781c073cd1b20b7c90693"
    assert corpus_fingerprint(old) == before
    for source, change in ((1, {"pattern": "*.json"}), (0, {"added_tokens": "text"}), (4, {"ignore": ["tools"]})):
        sources = old.model_dump()["sources"]
        sources[source] |= change
        assert corpus_fingerprint(Corpus.model_validate({**old.model_dump(), "sources": sources})) != before
