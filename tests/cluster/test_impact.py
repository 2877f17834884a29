"""Scoring on Ray: the bytes that one process writes, for any number of actors, also when one dies."""

import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from longspan import storage
from longspan.corpus.impact.manifest import ImpactManifest
from longspan.corpus.impact.parts import Unit
from longspan.corpus.impact.settings import ScoreSettings
from longspan.errors import ConfigError, DataError
from longspan.impact.on_ray import ray_runner
from longspan.impact.run import Done, DoUnit, score_corpus
from tests.tiny import tiny_model_directory

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def settings(material: Path) -> ScoreSettings:
    model = tiny_model_directory(material / "longer", vocab_size=320, max_position_embeddings=512, seed=4)
    return ScoreSettings(
        model=str(model), base=str(material / "model"), window=256, part_tokens=3000, documents=5, dtype="float32"
    )


@pytest.fixture(scope="module")
def expected(
    material: Path, settings: ScoreSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ImpactManifest]:
    folder = tmp_path_factory.mktemp("impact") / "here"
    return folder, score_corpus(str(material / "data"), str(folder), settings)


def contents(uri: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(uri, name)) for name in storage.list_files(uri)}


def die_once(do_unit: DoUnit, marker: str, unit: Unit) -> Done:
    """The second unit's actor is killed when its part is written, before its record is."""
    if unit.number == 1 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return do_unit(unit)


def test_any_number_of_actors_writes_what_one_process_writes(
    ray_cluster: None, material: Path, settings: ScoreSettings, expected: tuple[Path, ImpactManifest], tmp_path: Path
) -> None:
    folder, manifest = expected
    assert len(manifest.parts) > 3
    marker = str(tmp_path / "died")

    def two_of_which_one_dies(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[Done]:
        yield from ray_runner(actors=2)(partial(die_once, do_unit, marker), units)

    out = str(tmp_path / "two")
    assert score_corpus(str(material / "data"), out, settings, run_units=two_of_which_one_dies) == manifest
    assert Path(marker).exists()
    assert contents(out) == contents(str(folder))


def fail_at_one(do_unit: DoUnit, unit: Unit) -> Done:
    if unit.number == 1:
        raise DataError("document 7: token 3 has the score nan")
    return do_unit(unit)


def test_what_a_unit_met_is_raised_as_itself_and_the_rest_is_not_lost(
    ray_cluster: None, material: Path, settings: ScoreSettings, expected: tuple[Path, ImpactManifest], tmp_path: Path
) -> None:
    def run(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[Done]:
        yield from ray_runner()(partial(fail_at_one, do_unit), units)

    out = str(tmp_path / "out")
    with pytest.raises(DataError, match=r"^document 7: token 3 has the score nan$"):
        score_corpus(str(material / "data"), out, settings, run_units=run)
    assert storage.exists(storage.join(out, "records"))
    assert score_corpus(str(material / "data"), out, settings) == expected[1]
    assert contents(out) == contents(str(expected[0]))


def test_more_actors_than_slots_are_refused(
    ray_cluster: None, material: Path, settings: ScoreSettings, tmp_path: Path
) -> None:
    runner = ray_runner(actors=2, cpus_per_actor=50)
    asked = r"^impact: 2 actors x 50 \+ 1 task that reads the list of units x 1 = 101 CPU slots, the cluster has 6; use"
    with pytest.raises(ConfigError, match=asked):
        score_corpus(str(material / "data"), str(tmp_path / "out"), settings, run_units=runner)
