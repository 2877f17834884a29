import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longspan import storage
from longspan.corpus.impact.manifest import load_impact
from longspan.corpus.impact.parts import Unit
from longspan.corpus.impact.reader import ImpactReader
from longspan.corpus.impact.settings import Machine
from longspan.corpus.reader import TokenReader
from longspan.errors import ConfigError, DataError
from longspan.impact.models import open_pair
from longspan.impact.run import Done, DoUnit, Status, in_order, list_units, score_corpus
from longspan.impact.scores import document_scores
from tests.impact.conftest import LENGTHS, Material


def contents(uri: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(uri, name)) for name in storage.list_files(uri)}


@pytest.fixture(scope="module")
def scored(material: Material) -> str:
    output = str(material.folder / "scores")
    score_corpus(material.corpus, output, material.settings())
    return output


def test_units_are_runs_of_documents_of_one_source(material: Material) -> None:
    units = list_units(material.corpus, material.manifest, material.settings())
    assert [unit.length.tolist() for unit in units] == [[40, 7], [130], [1, 64], [90], [33, 50]]
    assert [unit.first_document for unit in units] == [0, 2, 3, 5, 6]
    assert [unit.offset for unit in units] == [0, 47, 177, 242, 332]
    assert [unit.number for unit in units] == list(range(5))
    few = list_units(material.corpus, material.manifest, material.settings(sources=("other",), documents=2))
    assert [(u.number, u.first_document, u.offset, u.length.tolist()) for u in few] == [
        (0, 5, 242, [90]),
        (1, 6, 332, [33]),
    ]
    with pytest.raises(ConfigError, match=r"^impact\.sources: 'poems' is none of the corpus's sources"):
        list_units(material.corpus, material.manifest, material.settings(sources=("text", "poems")))


def test_units_are_done_in_the_drivers_name(material: Material, tmp_path: Path) -> None:
    """So that an actor of a driver that was taken over writes no part."""
    seen = []

    def watched(do_unit: Any, units: Sequence[Unit]) -> Iterator[Done]:
        seen.append((do_unit.leases, storage.current_leases()))
        return in_order(do_unit, units)

    score_corpus(material.corpus, str(tmp_path / "scores"), material.settings(), run_units=watched)
    assert all(carried == held != () for carried, held in seen)
    assert seen


def test_every_document_has_its_own_scores(material: Material, scored: str) -> None:
    reader = ImpactReader(scored, material.manifest)
    pair = open_pair(material.settings(), Machine())
    offset = 0
    for document, length in enumerate([*LENGTHS["text"], *LENGTHS["other"]]):
        tokens, _ = TokenReader(material.corpus, material.manifest).gather(np.array([offset]), np.array([length]))
        expected = document_scores(pair, tokens, material.settings(), 16384)
        np.testing.assert_allclose(reader.scores(document, 0, length), expected, rtol=1e-3, atol=1e-5)
        offset += length
    manifest = load_impact(scored)
    assert (manifest.documents, manifest.tokens) == (8, 415)
    assert sorted(storage.list_files(scored)) == ["impact.json", *(part.file for part in manifest.parts)]


def test_asked_again_nothing_is_done(material: Material, scored: str, tmp_path: Path) -> None:
    before = contents(scored)
    # The same models at another place.
    shutil.copytree(material.folder / "long", tmp_path / "long")
    said: list[str] = []

    def refuse(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[Done]:
        raise AssertionError("a unit was run")

    settings = material.settings(model=str(tmp_path / "long"))
    found = score_corpus(material.corpus, scored, settings, run_units=refuse, say=said.append)
    assert found == load_impact(scored)
    assert contents(scored) == before
    assert "nothing done" in said[0]


@pytest.mark.parametrize("changes", [{"window": 32}, {"measure": "logit"}, {"short_prefix": 8, "stride": 8}])
def test_another_analysis_is_refused_the_folder(material: Material, scored: str, changes: dict[str, Any]) -> None:
    before = contents(scored)
    with pytest.raises(ConfigError, match=r"^impact\.output: .* holds the scores of another corpus, of other models"):
        score_corpus(material.corpus, scored, material.settings(**changes))
    assert contents(scored) == before


def test_a_folder_of_something_else_is_left_alone(material: Material, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds files, but neither a manifest"):
        score_corpus(material.corpus, str(tmp_path), material.settings())
    assert contents(str(tmp_path)) == {"thesis.txt": b"years of work"}


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_bytes(material: Material, scored: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out")

    def stop_after_two(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[Done]:
        yield from in_order(do_unit, units[:2])
        raise Interrupted

    with pytest.raises(Interrupted):
        score_corpus(material.corpus, output, material.settings(), run_units=stop_after_two)
    with pytest.raises(ConfigError, match="holds an interrupted analysis of another corpus"):
        score_corpus(material.corpus, output, material.settings(window=32))
    with pytest.raises(DataError, match="no finished analysis here"):
        ImpactReader(output)

    # A part that was cut short, whatever its record says, is done again.
    (tmp_path / "out" / "parts" / "part-000001.parquet").write_bytes(b"PAR1")
    run: list[int] = []

    def backwards(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[Done]:
        for unit in reversed(units):
            run.append(unit.number)
            yield do_unit(unit)

    seen: list[Status] = []
    score_corpus(material.corpus, output, material.settings(), run_units=backwards, watch=seen.append)
    assert run == [4, 3, 2, 1]
    assert seen[0] == Status(1, 5, 47, 415)
    assert seen[-1] == Status(5, 5, 415, 415)
    assert contents(output) == contents(scored)


def test_one_model_with_two_prefixes(material: Material, tmp_path: Path) -> None:
    settings = material.settings(base=None, short_prefix=8, stride=8, sources=("text",))
    found = score_corpus(material.corpus, str(tmp_path / "out"), settings)
    assert (found.documents, list(found.models)) == (5, ["model"])
    reader = ImpactReader(str(tmp_path / "out"))
    assert not reader.scores(0, 0, 16).any()
    assert reader.scores(0, 16, 24).all()
    with pytest.raises(DataError, match="document 5 was not scored; score its source too"):
        reader.scores(5, 0, 1)


def test_the_store_is_as_good_as_the_disk(material: Material, scored: str, s3_bucket: str) -> None:
    for name in ("long", "base", "corpus"):
        storage.upload_tree(str(material.folder / name), f"{s3_bucket}/{name}")
    settings = material.settings(model=f"{s3_bucket}/long", base=f"{s3_bucket}/base")
    score_corpus(f"{s3_bucket}/corpus", f"{s3_bucket}/scores", settings)
    here, there = contents(scored), contents(f"{s3_bucket}/scores")
    manifests = [json.loads(files.pop("impact.json")) for files in (here, there)]
    assert here == there
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]


def test_a_damaged_manifest_is_found(scored: str, tmp_path: Path) -> None:
    values = json.loads(storage.read_bytes(storage.join(scored, "impact.json")))
    first, second = values["parts"][:2]
    for changes, message in (
        ({"version": 9}, r"version 9; this longspan reads version 1"),
        ({"parts": [{**first, "tokens": -1}]}, r"impact\.json: parts\.0\.tokens: input should be greater than 0"),
        ({"parts": [{**first, "file": "../x"}]}, "a name must stay inside its folder"),
        ({"parts": [second, first]}, "parts overlap or are out of order"),
        ({"more": 1}, "more: unexpected keyword argument"),
    ):
        storage.write_json(str(tmp_path / "impact.json"), {**values, **changes})
        with pytest.raises(DataError, match=message):
            load_impact(str(tmp_path))
