"""`longspan impact` in this process: scores, statistics, a picture, and lines that say how far it is."""

import io
from pathlib import Path

import pytest

from longspan import storage
from longspan.corpus.impact.manifest import ImpactManifest, load_impact
from longspan.corpus.impact.settings import ScoreSettings
from longspan.corpus.impact.vocabulary import read_vocabulary
from longspan.impact.run import Status
from longspan.launch import impact as launch_impact
from longspan.launch.impact import describe, render_statistics, score


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def settings(folder: Path) -> ScoreSettings:
    return ScoreSettings(
        model=str(folder / "model"), window=64, short_prefix=8, stride=8, documents=1, dtype="float32", part_tokens=500
    )


@pytest.fixture(scope="module")
def scored(
    folder: Path, settings: ScoreSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ImpactManifest]:
    output = str(tmp_path_factory.mktemp("impact") / "scores")
    return output, score(str(folder / "data"), output, settings)


def test_a_corpus_is_scored_once(
    folder: Path, settings: ScoreSettings, scored: tuple[str, ImpactManifest], capsys: pytest.CaptureFixture[str]
) -> None:
    output, manifest = scored
    assert load_impact(output) == manifest
    assert manifest.documents == 2
    assert score(str(folder / "data"), output, settings) == manifest
    assert "already scored with these models and settings (2 documents), nothing done" in capsys.readouterr().err


def test_statistics_lie_beside_the_scores(folder: Path, scored: tuple[str, ImpactManifest]) -> None:
    output, manifest = scored
    found = describe(str(folder / "data"), output)
    assert 0 < found.tokens < manifest.tokens
    assert storage.read_json(storage.join(output, "statistics.json"))["tokens"] == found.tokens
    assert storage.read_bytes(storage.join(output, "statistics.png")).startswith(b"\x89PNG")
    assert read_vocabulary(output).count.sum() == found.tokens
    table = render_statistics(found)
    assert table.row_count == len(found.by_type)
    assert load_impact(output) == manifest


def test_a_finished_analysis_asks_for_no_cluster(
    folder: Path, settings: ScoreSettings, scored: tuple[str, ImpactManifest]
) -> None:
    """The address is of none."""
    assert score(str(folder / "data"), scored[0], settings, address="127.0.0.1:1") == scored[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    status = Status(1, 4, 2000, 8000)
    out = Terminal()
    with launch_impact._progress(out) as (say, watch):
        watch(status)
        watch(status._replace(units=2, tokens=4000))
        say("done")
    assert out.getvalue().count("\n") == 1
    assert "2/4 units | 4k of 8k tokens" in out.getvalue()
    plain = io.StringIO()
    with launch_impact._progress(plain) as (say, watch):
        watch(status)
    assert plain.getvalue() == ""
    monkeypatch.setattr(launch_impact, "_LINE_INTERVAL_S", 0.0)
    with launch_impact._progress(plain) as (say, watch):
        watch(status)
    assert plain.getvalue().startswith("1/4 units | 2k of 8k tokens")
