"""The manifest is read with suspicion: whatever is wrong in it is named."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longspan import storage
from longspan.corpus.manifest import load_manifest, manifest_bytes
from longspan.errors import DataError
from tests.corpus.conftest import Prepared


def test_is_read_back_as_it_was_written(prepared: Prepared) -> None:
    manifest = load_manifest(prepared.uri)
    assert manifest == prepared.manifest
    assert manifest_bytes(manifest) == Path(prepared.uri, "manifest.json").read_bytes()
    assert manifest.source_names == ["needles", "files", "lines"]


def test_ends_sentence_is_a_lookup(prepared: Prepared) -> None:
    ends = prepared.manifest.ends_sentence()
    assert (ends.dtype, ends.size) == (np.bool_, prepared.manifest.tokenizer.vocab_size)
    assert tuple(np.flatnonzero(ends).tolist()) == prepared.manifest.sentence_end_ids
    assert ends.any()


def test_lies_on_s3_as_well(prepared: Prepared, s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/c/manifest.json", manifest_bytes(prepared.manifest))
    assert load_manifest(f"{s3_bucket}/c") == prepared.manifest
    with pytest.raises(DataError, match=r"s3://.*/other/manifest\.json: no manifest.*run `longspan prepare`"):
        load_manifest(f"{s3_bucket}/other")


Edit = Callable[[dict[str, Any]], Any]
EDITS: list[tuple[Edit, str]] = [
    (lambda m: m.update(version=1), r"version 1; this longspan reads version 2, prepare the corpus again"),
    (lambda m: m.pop("version"), r"version None"),
    (lambda m: m.pop("shards"), r"shards: field required"),
    (lambda m: m.update(extra=1), r"extra: "),
    (lambda m: m["shards"][1].update(bytes=-1), r"shards\.1\.bytes: input should be greater than 0"),
    (lambda m: m["shards"][1].update(file="../x.parquet"), r"'\.\./x\.parquet': a name must stay inside"),
    (lambda m: m["shards"][1].update(file="/etc/passwd"), r"/etc/passwd"),
    (lambda m: m["shards"][1].update(file="s3://other/x"), r"s3://other/x"),
    (lambda m: m["tokenizer"].update(directory=".."), r"'\.\.'"),
    (lambda m: m["tokenizer"]["files"].update({"../a": "x"}), r"'\.\./a'"),
    (lambda m: m["index"].update(file="a/../../b"), r"a/\.\./\.\./b"),
    (lambda m: m["shards"][1].update(file=m["shards"][0]["file"]), r"a file is named twice"),
    (lambda m: m["shards"].reverse(), r"shards do not follow the order of sources"),
    (lambda m: m["shards"].pop(2), r"sources\.files: \d+ documents and \d+ tokens, but its shards add up to"),
    (lambda m: m["shards"][0].update(documents=99), r"sources\.needles: "),
    (lambda m: m["sources"].pop("lines"), r"shards do not follow the order of sources"),
    (lambda m: m["chunks"].update(file="../chunks.parquet"), r"'\.\./chunks\.parquet'"),
    (lambda m: m["token_counts"].update(file="/x"), r"/x"),
    (lambda m: m["index"].update(rows=7), r"index\.rows 7 is not the sum"),
    (
        lambda m: m["shards"][1].update(tokens_at=10**6),
        r"files-.*: \d+ tokens from byte 1000000 on do not fit in its",
    ),
    (
        lambda m: m["shards"][0].update(weights_at=10**6),
        r"needles-.*: \d+ tokens from byte 1000000 on do not fit in its",
    ),
    (lambda m: m["shards"][0].pop("tokens_at"), r"shards\.0\.tokens_at: field required"),
    (lambda m: m["sources"]["files"]["length_histogram"].update({"4": 1}), r"files: the histogram of its documents"),
    (lambda m: m["sources"]["files"]["token_histogram"].update({"4": 1}), r"files: the histogram of its tokens does"),
    (lambda m: m["sources"]["files"].update(left_out={"short": 4}), r"files: left_out does not add up to skipped 0"),
    (lambda m: m["sentence_end_ids"].append(10**6), r"sentence_end_ids: outside the vocabulary"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
def test_rejects_a_manifest_that_does_not_add_up(prepared: Prepared, tmp_path: Path, edit: Edit, message: str) -> None:
    values = copy.deepcopy(json.loads(manifest_bytes(prepared.manifest)))
    edit(values)
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"manifest\.json: .*" + message):
        load_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "version None"), ("\xff", "not valid JSON")]
)
def test_rejects_a_file_that_is_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        load_manifest(str(tmp_path))


def test_the_fingerprint_sees_shards_order_and_tokenizer(prepared: Prepared) -> None:
    values = json.loads(manifest_bytes(prepared.manifest))
    seen = {prepared.manifest.fingerprint}
    edits: list[Edit] = [
        lambda m: m["shards"].insert(0, m["shards"].pop()),
        lambda m: m["shards"][0].update(digest="xxh3-128:0"),
        lambda m: m["tokenizer"]["files"].update({"tokenizer.json": "xxh3-128:0"}),
    ]
    from pydantic import TypeAdapter

    from longspan.corpus.manifest import Manifest

    for edit in edits:
        changed = copy.deepcopy(values)
        edit(changed)
        seen.add(TypeAdapter(Manifest).validate_python(changed).fingerprint)
    assert len(seen) == 4
