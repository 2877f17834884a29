"""`longspan plan` on a tiny corpus: tables, RUN/plan.json, plots; and the look at a plan that passes by."""

import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from longspan import storage
from longspan.config.resume import run_mark
from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import load_manifest
from longspan.errors import ConfigError
from longspan.launch import survey
from longspan.launch.preview import preview
from longspan.launch.stage import stage_run
from longspan.observe.report import write_report
from longspan.planner.settings import plan_settings
from longspan.sampling.plan import plan_parts
from tests.launch.conftest import MakeRecipe
from tests.tiny import tiny_model_directory

MIX = {"mix": [{"weights": {"text": 3, "held": 1}}], "packing": "best_fit"}
PLOTS = ["length_mix.png", "length_mix_by_source.png", "mix_over_training.png", "packing.png", "position_coverage.png"]


def test_a_preview_is_tables_a_description_and_plots(make: MakeRecipe) -> None:
    recipe = make(data=MIX)
    shown = io.StringIO()
    console = Console(file=shown, width=160)
    for part in preview(recipe):
        console.print(part)
    for text in ("Plan of tiny", "best_fit", "75.0%", "held", "over 12 samples", "Memory of one GPU"):
        assert text in shown.getvalue()
    assert sorted(storage.list_files(recipe.run_uri)) == ["plan.json", *(f"plots/{name}" for name in PLOTS)]
    description = storage.read_json(storage.join(recipe.run_uri, "plan.json"))
    assert description["recipe"] == run_mark(recipe)
    assert {name: source["samples"] for name, source in description["sources"].items()} == {"text": 9, "held": 3}
    assert description["run"]["samples"] == 12


def test_positions_of_interleaved_chunks_are_measured_as_they_are_trained(make: MakeRecipe) -> None:
    """Each source file is one document: in a sample of four, a document's halves lie several documents apart."""

    def measured(**changes: Any) -> dict[str, Any]:
        data = {**MIX, "packing": "sequential", "sample_length": 4096, "target_length": 8192, **changes}
        recipe = make(data=data, positions={"type": "contiguous"})
        preview(recipe)
        found: dict[str, Any] = storage.read_json(storage.join(recipe.run_uri, "plan.json"))["positions"]
        return found

    plain, masked = measured(), measured(interleave={"chunks": 2, "cut": "equal"}, document_mask=True)
    assert plain["interleave"] is None
    assert masked["interleave"] == "cip"
    assert plain["largest_position"] < masked["largest_position"] < 4096
    assert masked["mean_token_distance"] > 1.2 * plain["mean_token_distance"]
    whole = measured(interleave={"chunks": 2, "cut": "equal"}, document_mask=False)
    assert whole["largest_position"] == 4095
    assert plain["mean_segment_length"] > 1.5 * masked["mean_segment_length"]


def test_staging_finds_what_the_preview_said(make: MakeRecipe, tmp_path: Path) -> None:
    said, staged = make(data=MIX, output=tmp_path / "said"), make(data=MIX, output=tmp_path / "staged")
    preview(said)
    stage_run(staged)
    assert Path(said.run_uri, "plan.json").read_bytes() == Path(staged.run_uri, "plan.json").read_bytes()


def test_a_report_shows_the_plots_of_the_staged_plan(make: MakeRecipe) -> None:
    recipe = make(data={**MIX, "mix": [{"weights": {"text": 1}}]})
    stage_run(recipe)
    storage.write_json(storage.join(recipe.run_uri, "summary.json"), {"kind": "train", "name": "tiny"})
    page = storage.read_text(write_report(recipe.run_uri))
    for title in ("Mix of sources over training", "Tokens by document length", "Documents in a sample", "Position cov"):
        assert title in page
    assert "Tokens by document length and source" not in page


def test_a_mix_that_cannot_be_is_refused_before_anything_is_written(make: MakeRecipe) -> None:
    recipe = make(data={**MIX, "repetition": {"by_source": {"held": 0.001}}})
    with pytest.raises(ConfigError, match="epochs of held"):
        preview(recipe)
    assert not storage.exists(recipe.run_uri)


def test_samples_are_picked_evenly_as_the_plan_passes(make: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make(train={"steps": 40}, data=MIX)
    manifest = load_manifest(recipe.data.manifest)
    table, settings = corpus_table(recipe.data.manifest, manifest), plan_settings(recipe, manifest.source_names)
    whole = next(iter(plan_parts(table, settings)))
    monkeypatch.setattr(survey, "SAMPLES_MEASURED", 9)
    look = survey.open_survey(table, settings)
    passed = list(survey.watched(plan_parts(table, settings, part_samples=7), look))
    assert sum(part.num_samples for part in passed) == 80
    assert [sample.index for sample in look.picked] == [0, 9, 19, 29, 39, 49, 59, 69, 79]
    for sample in look.picked:
        spans = slice(*whole.span_offsets[sample.index : sample.index + 2])
        assert np.array_equal(sample.offsets, whole.offset[spans])
        assert np.array_equal(sample.lengths, whole.length[spans])
        assert sample.offsets.base is None
    assert look.documents_per_sample.sum() == look.statistics.samples.sum() == 80


def test_samples_of_very_many_documents_are_measured_less_often(
    make: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_SPANS_MEASURED", 4)
    recipe = make(data=MIX)
    preview(recipe)
    positions = storage.read_json(storage.join(recipe.run_uri, "plan.json"))["positions"]
    assert 1 <= positions["samples_measured"] <= 4


def test_a_long_plan_says_how_far_it_is() -> None:
    lines: list[str] = []
    times = iter([0.0, 4.0, 11.0, 12.0, 25.0, 60.0])
    say = survey.progress_lines(1000, lines.append, lambda: next(times))
    for done in (100, 250, 300, 500, 1000):
        say(done)
    assert lines == ["plan 250 of 1,000 samples (25%), 33 s left\n", "plan 500 of 1,000 samples (50%), 25 s left\n"]


def test_a_scaling_of_the_models_own_that_is_replaced_is_said_in_plan_log_and_report(
    make: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    own["original_max_position_embeddings"] = 16
    model = {"path": str(tiny_model_directory(tmp_path / "model", vocab_size=320, rope_parameters=own))}
    line = (
        "rope: the model's own scaling (llama3, factor 4 from 16 tokens) is replaced by yarn, factor 16 from 16 tokens;"
        " rope.type keep or theta would keep it"
    )
    recipe = make(model=model, rope={"type": "yarn"})
    shown = io.StringIO()
    console = Console(file=shown, width=400)
    for part in preview(recipe):
        console.print(part)
    assert f"Warning: {line}" in shown.getvalue()
    assert line in [record.getMessage() for record in caplog.records]
    assert storage.read_json(storage.join(recipe.run_uri, "plan.json"))["warnings"][0] == line
    storage.write_json(storage.join(recipe.run_uri, "summary.json"), {"kind": "train", "steps": 4})
    assert line in html.unescape(storage.read_text(write_report(recipe.run_uri)))
    caplog.clear()
    kept = make(model=model, rope={"type": "theta", "theta": 500.0})
    preview(kept)
    assert not [
        text for text in storage.read_json(storage.join(kept.run_uri, "plan.json"))["warnings"] if "own" in text
    ]
    assert not caplog.records
