"""`longspan prepare` on Ray: the bytes that one process writes, whatever happens to workers and store."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.config.corpus import Corpus
from longspan.corpus.prepare import prepare
from longspan.corpus.units import Unit
from longspan.corpus.work import UnitResult
from longspan.errors import DataError
from longspan.launch.prepare import choose_runner, prepare_corpus, run_on_ray
from tests.s3 import Fault, FaultProxy

pytestmark = pytest.mark.ray


def config(folder: str, output: str, **changes: Any) -> Corpus:
    """Six text files and rows of Parquet in at least four units, and needles in two."""
    values = {
        "output": output,
        "tokenizer": {"train_vocab_size": 300, "needle_tokens": True},
        "sources": [
            {"type": "text", "name": "text", "paths": [f"{folder}/text"]},
            {"type": "needles", "name": "needles", "text_source": "rows", "length": 500, "documents": 8},
            {"type": "parquet", "name": "rows", "paths": [f"{folder}/rows.parquet"]},
        ],
        "unit_bytes": 8000,
        "shard_tokens": 2500,
    }
    return Corpus.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def texts(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    storage.upload_tree(str(material / "text"), str(folder / "text"))
    lines = "".join(path.read_text() for path in sorted((material / "other").iterdir())).splitlines()
    rows = ["\n".join(lines[begin : begin + 9]) for begin in range(0, len(lines), 9)]
    import pyarrow as pa

    pq.write_table(pa.table({"text": rows}), folder / "rows.parquet", row_group_size=10, compression="zstd")
    return folder


def contents(uri: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(uri, name)) for name in storage.list_files(uri)}


def say(line: str) -> None:
    print(line)


def test_ray_writes_what_one_process_writes(ray_cluster: None, texts: Path, tmp_path: Path) -> None:
    expected = prepare(config(str(texts), str(tmp_path / "here")))
    assert len(expected.shards) > 6
    assert prepare_corpus(config(str(texts), str(tmp_path / "ray")), workers=2) == expected
    assert contents(str(tmp_path / "ray")) == contents(str(tmp_path / "here"))


def test_a_store_with_faults_gives_the_same_bytes(
    ray_cluster: None, texts: Path, tmp_path: Path, s3_bucket: str, idle_proxy: FaultProxy
) -> None:
    storage.upload_tree(str(texts), f"{s3_bucket}/in")
    expected = prepare(config(f"{s3_bucket}/in", str(tmp_path / "here")))
    idle_proxy.set_faults(*(Fault(kind, probability=0.1, seed=n) for n, kind in enumerate(("503", "reset"))))
    run = choose_runner(2, None, say)
    assert prepare(config(f"{s3_bucket}/in", f"{s3_bucket}/out"), run_units=run) == expected
    struck = idle_proxy.struck
    idle_proxy.set_faults()
    assert sum(struck.values()) > 0
    assert contents(f"{s3_bucket}/out") == contents(str(tmp_path / "here"))


def die_once(do_unit: Callable[[Unit], UnitResult], marker: str, unit: Unit) -> UnitResult:
    """The second text unit's worker is killed when all shards and the record are written, before it can say so."""
    result = do_unit(unit)
    if unit.name == "text-00001" and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def test_the_unit_of_a_worker_that_dies_is_done_again(ray_cluster: None, texts: Path, tmp_path: Path) -> None:
    expected = prepare(config(str(texts), str(tmp_path / "here")))
    marker = str(tmp_path / "died")

    def run(do_unit: Callable[[Unit], UnitResult], units: Any) -> Any:
        return run_on_ray(partial(die_once, do_unit, marker), units, 2)

    assert prepare(config(str(texts), str(tmp_path / "ray")), run_units=run) == expected
    assert Path(marker).exists()
    assert contents(str(tmp_path / "ray")) == contents(str(tmp_path / "here"))


def test_what_is_wrong_with_a_text_is_raised_as_itself(ray_cluster: None, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good enough"}\n{"body": "x"}\n')
    prepare(config(str(texts), str(tmp_path / "here")))
    source = {"type": "jsonl", "name": "lines", "paths": [str(tmp_path / "bad.jsonl")]}
    changes = {"sources": [source], "tokenizer": {"path": str(tmp_path / "here" / "tokenizer")}}
    with pytest.raises(DataError, match=r"^/.*/bad\.jsonl, line 2: no field 'text'; it has \['body'\]"):
        prepare_corpus(config(str(texts), str(tmp_path / "ray"), **changes), workers=2)
    assert not (tmp_path / "ray" / "manifest.json").exists()


def test_bad_rows_are_counted_alike_and_held_to_their_share(ray_cluster: None, texts: Path, tmp_path: Path) -> None:
    lines = [f'{{"text": "line {number} of some"}}\n' for number in range(2000)]
    lines[100] = lines[1500] = '{"text": "x\n'
    (tmp_path / "bad.jsonl").write_text("".join(lines))
    prepare(config(str(texts), str(tmp_path / "made")))
    source = {"type": "jsonl", "name": "lines", "paths": [str(tmp_path / "bad.jsonl")], "on_bad": "skip"}
    changes = {"sources": [source], "tokenizer": {"path": str(tmp_path / "made" / "tokenizer")}}
    expected = prepare(config(str(texts), str(tmp_path / "here"), **changes))
    assert expected.sources["lines"].left_out == {"not JSON": 2}
    assert prepare_corpus(config(str(texts), str(tmp_path / "ray"), **changes), workers=2) == expected
    assert contents(str(tmp_path / "ray")) == contents(str(tmp_path / "here"))
    changes["sources"] = [{**source, "max_bad_share": 0.0005}]
    with pytest.raises(DataError, match=r"^source lines: 1 of the first 1,[\d]+ rows are bad \(1 not JSON\)"):
        prepare_corpus(config(str(texts), str(tmp_path / "strict"), **changes), workers=2)
