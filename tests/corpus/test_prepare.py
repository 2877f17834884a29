"""`longspan prepare` as a whole: every text once, the same bytes each time, and never a half-made corpus."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longspan import storage
from longspan.corpus.manifest import load_manifest
from longspan.corpus.prepare import corpus_fingerprint, prepare
from longspan.corpus.shards import ShardReader
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.corpus.tokenizer import open_tokenizer
from longspan.errors import ConfigError, DataError
from tests.corpus.conftest import Prepared, corpus_config, sentences, write_texts


def documents_of(uri: str, source: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    manifest = load_manifest(uri)
    reader = ShardReader(uri, manifest)
    number = manifest.source_names.index(source)
    return [
        reader.document(int(i), 0, int(reader.index.length[i]))
        for i in np.flatnonzero(reader.index.source_id == number)
    ]


def contents(uri: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(uri, name)) for name in storage.list_files(uri)}


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
    for output in (str(tmp_path / "again"), f"{s3_bucket}/corpora/again"):
        manifest = prepare(corpus_config(prepared.folder, output))
        assert contents(output) == expected
        assert manifest == load_manifest(output) == prepared.manifest


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


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(tmp_path)
    config = corpus_config(tmp_path, tmp_path / "out")
    write = storage.write_bytes
    allowed, written = [3], []

    def fail_after(uri: str, data: bytes) -> None:
        if len(written) == allowed[0]:
            raise KeyboardInterrupt
        written.append(uri)
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", fail_after)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 3
    with pytest.raises(DataError, match="no manifest, so no finished corpus here"):
        load_manifest(config.output)
    allowed[0] = 10**6
    manifest = prepare(config)
    assert written[-1].endswith("manifest.json")
    assert manifest == load_manifest(config.output)


def test_progress_names_every_shard(tmp_path: Path) -> None:
    write_texts(tmp_path)
    lines: list[str] = []
    manifest = prepare(corpus_config(tmp_path, tmp_path / "out"), lines.append)
    assert lines[0] == "tokenizer: training 300 byte-level BPE tokens"
    assert [line.split()[1].rstrip(",") for line in lines[1:]] == sorted(
        (shard.file for shard in manifest.shards), key=lambda file: "needles" in file
    )


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
    from longspan.corpus.sources import find_files

    files = {
        source.name: find_files(source, "x")
        for source in prepared.config.sources
        if source.name != "needles"  # type: ignore[arg-type]
    }
    monkeypatch.setattr(module, "TRAINING_CHARACTERS", 2 * 1000)
    texts = list(module._training_texts(prepared.config, files))
    whole = "".join(prepared.texts[name] for name in sorted(prepared.texts))
    lines = "".join(sentences(100 + i, 5 + i) for i in range(20))
    assert "".join(texts) == whole[:1000] + lines[:1000]


def test_the_fingerprint_is_that_of_the_content(prepared: Prepared) -> None:
    assert corpus_fingerprint(prepared.config) == prepared.manifest.corpus
    assert corpus_fingerprint(corpus_config(prepared.folder, "elsewhere")) == prepared.manifest.corpus
    assert corpus_fingerprint(corpus_config(prepared.folder, "x", seed=1)) != prepared.manifest.corpus
