"""`longspan prepare` as a whole: every text once, the same bytes each time, and never a half-made corpus."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from longspan import storage
from longspan.corpus.chunks import chunk_table
from longspan.corpus.manifest import Manifest, load_manifest
from longspan.corpus.prepare import DoUnit, Status, corpus_fingerprint, prepare
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.corpus.tokenizer import open_tokenizer
from longspan.corpus.units import Unit, list_units
from longspan.corpus.work import UnitResult
from longspan.errors import ConfigError, DataError
from tests.corpus.conftest import (
    Prepared,
    contents,
    corpus_config,
    documents_of,
    read,
    rows_of,
    sentences,
    write_texts,
)

SMALL_UNITS = {"unit_bytes": 2500}
"""Of the corpus of conftest: seven units of text, six of lines and four of needles."""


def test_every_text_is_one_document_between_bos_and_eos(prepared: Prepared) -> None:
    tokenizer = open_tokenizer(prepared.uri, prepared.manifest)
    found = documents_of(prepared.uri, "files")
    texts = [prepared.texts[name] for name in sorted(prepared.texts)]
    for (tokens, loss_weight), text in zip(found, texts, strict=True):
        assert (tokens[0], tokens[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.decode(tokens[1:-1]) == text
        assert loss_weight is None
    lines = [tokenizer.decode(tokens[1:-1]) for tokens, _ in documents_of(prepared.uri, "lines")]
    assert lines == [sentences(100 + i, 5 + i) for i in range(20)]


def test_needle_documents_are_woven_into_the_text(prepared: Prepared) -> None:
    assert prepared.manifest.tokenizer.needle_first_id == 300
    block = NeedleVocabulary(first_id=300)
    tokenizer = open_tokenizer(prepared.uri, prepared.manifest)
    found = documents_of(prepared.uri, "needles")
    assert len({tokens.tobytes() for tokens, _ in found}) == 12
    for tokens, loss_weight in found:
        assert loss_weight is not None
        assert tokens.size == loss_weight.size == 200
        assert (loss_weight[(tokens >= 300) & (tokens < block.value(0))] == 0).all()
        assert not np.isin(tokens, [tokenizer.bos_token_id, tokenizer.eos_token_id]).any()
    assert any((tokens >= 300).any() for tokens, _ in found)


def test_shards_keep_to_their_size(prepared: Prepared) -> None:
    assert all(shard.tokens <= 2500 or shard.documents == 1 for shard in prepared.manifest.shards)
    assert len(prepared.manifest.shards) > 5


def test_two_runs_give_the_same_bytes_local_or_s3(prepared: Prepared, tmp_path: Path, s3_bucket: str) -> None:
    expected = contents(prepared.uri)
    assert not any(name.startswith("units/") for name in expected)
    for output in (str(tmp_path / "again"), f"{s3_bucket}/corpora/again"):
        manifest = prepare(corpus_config(prepared.folder, output))
        assert contents(output) == expected
        assert manifest == load_manifest(output) == prepared.manifest


def test_the_order_in_which_units_are_done_does_not_matter(tmp_path: Path) -> None:
    write_texts(tmp_path)

    def backwards_and_twice(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        for unit in reversed(units):
            do_unit(unit)
            yield do_unit(unit)

    prepare(corpus_config(tmp_path, tmp_path / "a", **SMALL_UNITS))
    prepare(corpus_config(tmp_path, tmp_path / "b", **SMALL_UNITS), run_units=backwards_and_twice)
    assert contents(str(tmp_path / "a")) == contents(str(tmp_path / "b"))


def test_units_are_done_in_the_drivers_name(tmp_path: Path) -> None:
    """So that a worker of a driver that was taken over writes no shard."""
    seen = []

    def watched(do_unit: Any, units: Sequence[Unit]) -> Iterator[UnitResult]:
        seen.append((do_unit.leases, storage.current_leases()))
        return map(do_unit, units)

    write_texts(tmp_path)
    prepare(corpus_config(tmp_path, tmp_path / "out"), run_units=watched)
    assert all(carried == held != () for carried, held in seen)
    assert seen


def test_small_units_hold_the_same_documents_as_large_ones(prepared: Prepared, tmp_path: Path) -> None:
    config = corpus_config(prepared.folder, tmp_path / "out", **SMALL_UNITS)
    manifest = prepare(config)
    assert {name: len(units) for name, units in list_units(config).items()} == {"needles": 4, "files": 7, "lines": 6}
    assert len(manifest.shards) > len(prepared.manifest.shards)
    assert manifest.sources == prepared.manifest.sources
    for source in prepared.manifest.sources:
        assert rows_of(config.output, source) == rows_of(prepared.uri, source)


def test_a_finished_corpus_is_left_alone_and_said_so(prepared: Prepared) -> None:
    before = contents(prepared.uri)
    lines: list[str] = []
    assert prepare(prepared.config, lines.append) == prepared.manifest
    assert lines == [f"{prepared.uri}: already prepared from this configuration (40 documents), nothing done"]
    assert contents(prepared.uri) == before


def test_another_corpus_is_never_overwritten(prepared: Prepared) -> None:
    config = corpus_config(prepared.folder, prepared.uri, shard_tokens=2501)
    with pytest.raises(ConfigError, match=f"output: {prepared.uri} holds a corpus of another configuration"):
        prepare(config)


class Stopped(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("whole")
    write_texts(folder)
    prepare(corpus_config(folder, folder / "out", **SMALL_UNITS))
    return folder, contents(str(folder / "out"))


def test_an_interrupted_run_goes_on_from_every_unit(
    uninterrupted: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    folder, expected = uninterrupted
    done: list[str] = []

    def one_unit(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        for unit in units[:1]:
            done.append(unit.name)
            yield do_unit(unit)
        if units:
            raise Stopped

    lines: list[str] = []
    config = corpus_config(folder, tmp_path / "out", **SMALL_UNITS)
    for _ in range(17):
        with pytest.raises(Stopped):
            prepare(config, lines.append, run_units=one_unit)
        with pytest.raises(DataError, match="no manifest, so no finished corpus here"):
            load_manifest(config.output)
    prepare(config, lines.append, run_units=one_unit)
    assert contents(config.output) == expected
    assert sorted(done) == sorted(unit.name for units in list_units(config).values() for unit in units)
    assert len(done) == 17  # each unit once
    assert f"{config.output}: 3 of 13 units are done already, going on with the rest" in lines
    assert sum("training" in line for line in lines) == 1  # nor is the tokenizer trained again


def test_a_run_that_ends_at_any_write_goes_on_to_the_same_bytes(
    uninterrupted: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = uninterrupted
    config = corpus_config(folder, tmp_path / "out", **SMALL_UNITS)
    write = storage.write_bytes
    room, written = [0], []

    def fail_after(uri: str, data: bytes) -> None:
        if room[0] == 0:
            raise Stopped
        room[0] -= 1
        written.append(uri)
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", fail_after)
    for allowed in range(1, 100):
        room[0] = allowed % 3  # a unit of the larger texts writes two shards and a record: it never gets to the third
        if allowed > 12:
            room[0] = 10**6
        try:
            prepare(config)
            break
        except Stopped:
            assert not storage.exists(f"{config.output}/manifest.json")
    assert allowed > 12
    assert written[-1].endswith("manifest.json")
    assert contents(config.output) == expected


def test_shards_of_a_unit_that_was_not_finished_or_is_no_more_are_not_left(prepared: Prepared, tmp_path: Path) -> None:
    write_texts(tmp_path)
    tokenizer = {"path": f"{prepared.uri}/tokenizer"}
    config = corpus_config(tmp_path, tmp_path / "out", tokenizer=tokenizer, **SMALL_UNITS)

    def stop_at_the_end(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        yield from map(do_unit, units)
        raise Stopped

    with pytest.raises(Stopped):
        prepare(config, run_units=stop_at_the_end)
    for name in ("a/6.txt", "b/7.txt"):  # fewer texts now, and so other units
        (tmp_path / "texts" / name).unlink()
    prepare(config)
    prepare(corpus_config(tmp_path, tmp_path / "fresh", tokenizer=tokenizer, **SMALL_UNITS))
    assert contents(config.output) == contents(str(tmp_path / "fresh"))


def test_a_shard_that_was_lost_is_made_again(uninterrupted: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, expected = uninterrupted
    config = corpus_config(folder, tmp_path / "out", **SMALL_UNITS)

    def lose_one(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        yield from map(do_unit, units)
        Path(config.output, "shards", "lines-00001-00000.parquet").unlink(missing_ok=True)

    message = r"lines-00001-00000\.parquet: missing, or not of the size .*; run the same command again"
    with pytest.raises(DataError, match=message):
        prepare(config, run_units=lose_one)
    prepare(config)
    assert contents(config.output) == expected


def test_the_rest_of_another_configuration_is_removed_and_said_so(
    uninterrupted: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    folder, expected = uninterrupted

    def stop(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        yield do_unit(units[0])
        raise Stopped

    with pytest.raises(Stopped):
        prepare(corpus_config(folder, tmp_path / "out", unit_bytes=1000), run_units=stop)
    lines: list[str] = []
    prepare(corpus_config(folder, tmp_path / "out", **SMALL_UNITS), lines.append)
    assert lines[0] == f"{tmp_path}/out: an interrupted run of another configuration is removed"
    assert contents(str(tmp_path / "out")) == expected


def test_a_strangers_folder_of_shards_is_not_touched(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "out" / "shards").mkdir(parents=True)
    (tmp_path / "out" / "shards" / "x.parquet").write_text("mine")
    with pytest.raises(ConfigError, match=r"output: .*/out has a folder 'shards', but neither a manifest nor"):
        prepare(corpus_config(prepared.folder, tmp_path / "out"))
    assert contents(str(tmp_path / "out")) == {"shards/x.parquet": b"mine"}


def test_progress_tells_of_sources_and_units(tmp_path: Path) -> None:
    write_texts(tmp_path)
    lines: list[str] = []
    seen: list[Status] = []
    manifest = prepare(corpus_config(tmp_path, tmp_path / "out", **SMALL_UNITS), lines.append, watch=seen.append)
    assert lines[0] == "tokenizer: training 300 byte-level BPE tokens"
    assert [line.partition(":")[0] for line in lines[1:]] == ["needles", "files", "lines"]
    assert [status.units for status in seen] == [*range(14), *range(13, 18)]  # once more before the needles
    assert {(status.num_units, status.total_bytes) for status in seen} == {(17, seen[-1].num_bytes)}
    tokens = sum(source.tokens for source in manifest.sources.values())
    assert (seen[-1].documents, seen[-1].tokens) == (manifest.index.rows, tokens)


def test_histograms_and_counts_are_those_of_the_documents(prepared: Prepared) -> None:
    table = pq.read_table(Path(prepared.uri) / "token_counts.parquet").to_pylist()
    order = [(prepared.manifest.source_names.index(row["source"]), row["token"]) for row in table]
    assert order == sorted(set(order))
    assert prepared.manifest.token_counts.rows == len(table)
    for name, info in prepared.manifest.sources.items():
        rows = rows_of(prepared.uri, name)
        assert {row["source"] for row in rows} == {name}
        counted = {row["token"]: row["count"] for row in table if row["source"] == name}
        assert counted == Counter(token for row in rows for token in row["tokens"])
        lengths = [row["length"] for row in rows]
        assert lengths == [len(row["tokens"]) for row in rows]
        assert info.length_histogram == Counter(2 ** (length.bit_length() - 1) for length in lengths)
        tokens: Counter[int] = Counter()
        for length in lengths:
            tokens[2 ** (length.bit_length() - 1)] += length
        assert info.token_histogram == tokens
        assert (info.documents, info.tokens, info.skipped) == (len(rows), sum(lengths), 0)
    index = pq.read_table(Path(prepared.uri) / "documents.parquet")
    everything = [row["length"] for name in prepared.manifest.sources for row in rows_of(prepared.uri, name)]
    assert index["length"].to_pylist() == everything


def addressed(uri: str, manifest: Manifest, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Tokens and weights of the source, by the bytes that the manifest names."""
    tokens, weights = [], []
    for shard in manifest.shards:
        if shard.source == source:
            data = read(uri, shard.file)
            assert storage.digest_bytes(data) == shard.digest
            tokens.append(np.frombuffer(data, "<u4", shard.tokens, shard.tokens_at))
            if shard.weights_at is not None:
                weights.append(np.frombuffer(data, "<f4", shard.tokens, shard.weights_at))
    return np.concatenate(tokens), np.concatenate(weights) if weights else None


def test_tokens_and_weights_lie_where_the_manifest_says(prepared: Prepared) -> None:
    for source in prepared.manifest.sources:
        tokens, weights = addressed(prepared.uri, prepared.manifest, source)
        rows = rows_of(prepared.uri, source)
        assert tokens.tolist() == [token for row in rows for token in row["tokens"]]
        if source == "needles":
            assert weights is not None
            assert weights.tolist() == [weight for row in rows for weight in row["loss_weight"]]
        else:
            assert weights is None
            assert "loss_weight" not in rows[0]


def test_chunks_are_no_larger_than_asked_for_nor_than_a_shard(prepared: Prepared, tmp_path: Path) -> None:
    assert chunk_table(prepared.uri, prepared.manifest).offset[-1] == sum(s.tokens for s in prepared.manifest.shards)
    for asked, limit in ((500, 500), (10**6, 2500)):
        config = corpus_config(prepared.folder, tmp_path / str(asked), chunk_tokens=asked)
        chunks = chunk_table(config.output, prepare(config))
        assert limit / 2 < np.diff(chunks.offset).max() <= limit


def write_as(folder: Path, kind: str, texts: list[str]) -> dict[str, Any]:
    """The texts as a source of this kind, in two files."""
    folder.mkdir(parents=True)
    for number, part in enumerate((texts[:15], texts[15:])):
        table = pa.table({"id": range(len(part)), "body": part})
        if kind == "parquet":
            pq.write_table(table, folder / f"{number}.parquet", row_group_size=4)
        elif kind == "arrow":
            with pa.ipc.new_stream(folder / f"data-{number:05d}-of-00002.arrow", table.schema) as writer:
                writer.write_table(table, max_chunksize=6)
        else:
            lines = "".join(json.dumps({"body": text}) + "\n" for text in part).encode()
            packers: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
            (folder / f"{number}.{kind}").write_bytes(packers[kind.removeprefix("jsonl")](lines))
    if kind == "arrow":
        files = [{"filename": f"data-{number:05d}-of-00002.arrow"} for number in range(2)]
        (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None}))
        (folder / "dataset_info.json").write_text("{}")
    return {"type": kind.split(".")[0], "name": "rows", "paths": [str(folder)], "text_field": "body"}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "arrow"])
def test_every_kind_of_file_gives_the_same_documents_local_or_s3(
    prepared: Prepared, tmp_path: Path, s3_bucket: str, kind: str
) -> None:
    texts = [sentences(100 + i, 5 + i) for i in range(20)]
    source = write_as(tmp_path / "data", kind, texts)
    storage.upload_tree(str(tmp_path / "data"), f"{s3_bucket}/data")
    tokenizer = {"path": f"{prepared.uri}/tokenizer"}
    expected = rows_of(prepared.uri, "lines")
    for paths, output, unit_bytes in (
        ([str(tmp_path / "data")], str(tmp_path / "out"), 1000),
        ([f"{s3_bucket}/data"], f"{s3_bucket}/out", 5000),
    ):
        changes = {"sources": [{**source, "paths": paths}], "tokenizer": tokenizer, "unit_bytes": unit_bytes}
        prepare(corpus_config(tmp_path, output, **changes))
        assert [row["tokens"] for row in rows_of(output, "rows")] == [row["tokens"] for row in expected]


def test_a_unit_without_a_usable_document_is_no_mistake(prepared: Prepared, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("", "a", "", sentences(0, 20), "", "b")]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    source = {"type": "jsonl", "name": "lines", "paths": [str(tmp_path / "lines.jsonl")]}
    changes = {"sources": [source], "tokenizer": {"path": f"{prepared.uri}/tokenizer"}, "unit_bytes": 15}
    config = corpus_config(tmp_path, tmp_path / "out", **changes)
    manifest = prepare(config)
    assert (manifest.sources["lines"].documents, manifest.sources["lines"].skipped) == (1, 5)
    assert len(list_units(config)["lines"]) > 3
    assert len(manifest.shards) == 1


def test_needles_take_the_first_text_only(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longspan.corpus.documents.NEEDLE_TEXT_TOKENS", 200)
    monkeypatch.setattr("longspan.corpus.combine.NEEDLE_TEXT_TOKENS", 200)
    sources: list[dict[str, Any]] = corpus_config(prepared.folder, "x").model_dump()["sources"]
    sources[0]["pure_text_share"] = 1.0
    config = corpus_config(prepared.folder, tmp_path / "out", sources=sources, **SMALL_UNITS)
    prepare(config)
    text = [tokens[1:-1] for tokens, _ in documents_of(config.output, "files")]
    for tokens, _ in documents_of(config.output, "needles"):  # of 200 tokens: there is one place to begin
        assert tokens.tolist() == np.concatenate(text)[:200].tolist()


def test_an_existing_tokenizer_is_kept_and_may_bring_needle_tokens(prepared: Prepared, tmp_path: Path) -> None:
    tokenizer = {"path": f"{prepared.uri}/tokenizer", "add_bos": False, "add_eos": False}
    manifest = prepare(corpus_config(prepared.folder, tmp_path / "out", tokenizer=tokenizer))
    assert manifest.tokenizer.needle_first_id == 300
    assert manifest.tokenizer.vocab_size == prepared.manifest.tokenizer.vocab_size
    plain, framed = documents_of(str(tmp_path / "out"), "files"), documents_of(prepared.uri, "files")
    assert [tokens.tolist() for tokens, _ in plain] == [tokens[1:-1].tolist() for tokens, _ in framed]


def test_short_documents_are_left_out_and_counted(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": "ab" * n}) + "\n" for n in (0, 1, 50, 60)))
    source = {"type": "jsonl", "name": "lines", "paths": [str(tmp_path / "lines.jsonl")]}
    tokenizer = {"path": f"{prepared.uri}/tokenizer"}
    config = corpus_config(tmp_path, tmp_path / "out", sources=[source], tokenizer=tokenizer, min_document_tokens=20)
    info = prepare(config).sources["lines"]
    assert (info.documents, info.skipped) == (2, 2)

    config = corpus_config(tmp_path, tmp_path / "none", sources=[source], tokenizer=tokenizer, min_document_tokens=999)
    with pytest.raises(DataError, match=r"source lines: none of its 4 documents has min_document_tokens 999 tokens"):
        prepare(config)
    assert not storage.exists(str(tmp_path / "none" / "manifest.json"))


def test_needles_need_their_tokens_and_enough_text(prepared: Prepared, tmp_path: Path) -> None:
    config = corpus_config(prepared.folder, tmp_path / "a", tokenizer={"train_vocab_size": 300})
    with pytest.raises(ConfigError, match=r"sources\.0: needles need needle tokens in the tokenizer"):
        prepare(config)
    sources: list[dict[str, Any]] = corpus_config(prepared.folder, "x").model_dump()["sources"]
    sources[0]["length"] = 10**6
    with pytest.raises(DataError, match=r"source needles: text of files: needle text has \d+ tokens"):
        prepare(corpus_config(prepared.folder, tmp_path / "b", sources=sources))


def test_nothing_is_written_when_a_path_is_wrong(prepared: Prepared, tmp_path: Path) -> None:
    source = {"type": "text", "name": "files", "paths": [str(tmp_path / "gone")]}
    with pytest.raises(ConfigError, match=r"sources\.0\.paths\.0: .*gone: no file matches \*"):
        prepare(corpus_config(tmp_path, tmp_path / "out", sources=[source]))
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_is_trained_on_the_first_texts_of_every_source(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longspan.corpus import prepare as module

    monkeypatch.setattr(module, "TRAINING_CHARACTERS", 2 * 1000)
    texts = list(module._training_texts(prepared.config, list_units(prepared.config)))
    whole = "".join(prepared.texts[name] for name in sorted(prepared.texts))
    lines = "".join(sentences(100 + i, 5 + i) for i in range(20))
    assert "".join(texts) == whole[:1000] + lines[:1000]


def test_the_fingerprint_is_that_of_the_content(prepared: Prepared) -> None:
    assert corpus_fingerprint(prepared.config) == prepared.manifest.corpus
    assert corpus_fingerprint(corpus_config(prepared.folder, "elsewhere")) == prepared.manifest.corpus
    assert corpus_fingerprint(corpus_config(prepared.folder, "x", seed=1)) != prepared.manifest.corpus
