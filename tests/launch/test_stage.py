"""Staging: the recipe is checked against model, corpus and run directory; the plan is written once."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.checkpoint.commit import Commit, write_commit
from longspan.config.load import fingerprint, load_recipe
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import read_plan_metadata, read_plan_rows
from longspan.errors import CheckpointError, ConfigError, DataError, TopologyError
from longspan.launch.stage import read_staged, stage_run
from tests.launch.conftest import MakeRecipe, prepare_corpus
from tests.tiny import tiny_model_directory


def contents(run: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(run, name)) for name in storage.list_files(run)}


def test_a_staged_run_has_recipe_and_plan(make: MakeRecipe) -> None:
    recipe = make()
    stage_run(recipe)
    assert sorted(contents(recipe.run_uri)) == ["plan.parquet", "recipe.yaml"]
    assert read_staged(recipe.run_uri) == recipe
    assert load_recipe(Path(recipe.run_uri, "recipe.yaml")) == recipe
    plan = storage.join(recipe.run_uri, "plan.parquet")
    metadata = read_plan_metadata(plan)
    assert metadata["recipe"] == fingerprint(recipe)
    assert metadata["manifest"] == load_manifest(recipe.data.manifest).fingerprint
    assert metadata["num_samples"] == "12"
    assert {row.source for row in read_plan_rows(plan, 0, 12)} == {"text"}
    assert all(row.lengths.sum() == 32 for row in read_plan_rows(plan, 0, 12))


def test_staging_again_changes_nothing(make: MakeRecipe) -> None:
    stage_run(make())
    before = contents(make().run_uri)
    stage_run(make())
    assert contents(make().run_uri) == before


def test_a_lost_plan_is_made_again_the_same(make: MakeRecipe) -> None:
    recipe = make()
    stage_run(recipe)
    before = contents(recipe.run_uri)
    storage.delete(storage.join(recipe.run_uri, "plan.parquet"))
    stage_run(recipe)
    assert contents(recipe.run_uri) == before


def test_where_and_how_fast_may_change(make: MakeRecipe) -> None:
    stage_run(make())
    plan = contents(make().run_uri)["plan.parquet"]
    other = make(train={"micro_batch_size": 2, "save_every": 3}, parallel={"launch": "ray", "num_workers": 1})
    stage_run(other)
    assert read_staged(other.run_uri) == other
    assert contents(other.run_uri)["plan.parquet"] == plan


@pytest.mark.parametrize(
    "sections",
    [{"seed": 1}, {"rope": {"type": "linear"}}, {"train": {"learning_rate": 1.0}}, {"positions": {"type": "pose"}}],
    ids=["seed", "rope", "rate", "positions"],
)
def test_another_recipe_in_the_same_directory_is_refused(make: MakeRecipe, sections: dict[str, Any]) -> None:
    stage_run(make())
    before = contents(make().run_uri)
    with pytest.raises(
        ConfigError, match=r"^output: .*run holds a run of another recipe .*give this one another output"
    ):
        stage_run(make(**sections))
    assert contents(make().run_uri) == before


def test_checkpoints_without_a_recipe_are_refused(make: MakeRecipe) -> None:
    recipe = make()
    storage.write_text(storage.join(recipe.run_uri, "checkpoints", "step-00000001", "COMMIT.json"), "{}")
    with pytest.raises(ConfigError, match=r"^output: .*run holds checkpoints but no recipe.yaml; give another output$"):
        stage_run(recipe)


def test_checkpoints_of_another_recipe_are_refused(make: MakeRecipe) -> None:
    recipe = make()
    stage_run(recipe)
    write_commit(recipe.run_uri, Commit(1, 2, "0" * 32, {}, {}, ()))
    with pytest.raises(CheckpointError, match="of another recipe"):
        stage_run(recipe)


def test_a_corpus_that_has_changed_is_refused(make: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    recipe = make(data={"manifest": prepare_corpus(tmp_path / "texts", tmp_path / "data")})
    stage_run(recipe)
    shutil.rmtree(tmp_path / "data")
    prepare_corpus(tmp_path / "texts", tmp_path / "data", seed=50)
    with pytest.raises(
        DataError, match=r"data: the corpus has changed since .*plan.parquet was made; give the run another"
    ):
        stage_run(recipe)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"data": {"manifest": "nowhere/data"}},
        ConfigError,
        "data.manifest: no finished corpus at 'nowhere/data'; give the directory that",
    ),
    (
        {"data": {"mix": [{"weights": {"text": 1}}, {"from_step": 2, "weights": {"txet": 1}}]}},
        ConfigError,
        "data.mix.1.weights.txet: not a source of the manifest; it has held, text",
    ),
    (
        {"evaluate": {"lengths": [64], "text_source": "hold"}},
        ConfigError,
        "evaluate.text_source: 'hold' is not a source; it has held, text",
    ),
    ({"evaluate": {"lengths": [64]}}, ConfigError, "evaluate.text_source: required when evaluate.lengths is given"),
    ({"model": {"path": "/nowhere/model"}}, ConfigError, "model.path: cannot read a model config at '/nowhere/model'"),
    (
        {"parallel": {"launch": "ray", "num_workers": 3, "sequence_parallel": 3}, "data": {"sample_length": 30}},
        TopologyError,
        "parallel.sequence_parallel 3 does not divide the model's num_attention_heads 4; use 2 or 4",
    ),
]


@pytest.mark.parametrize(("sections", "kind", "message"), REFUSED, ids=[message[:30] for _, _, message in REFUSED])
def test_what_does_not_fit_is_refused_before_anything_is_written(
    make: MakeRecipe, sections: dict[str, Any], kind: type[Exception], message: str
) -> None:
    recipe = make(**sections)
    with pytest.raises(kind, match=re.escape(message)) as caught:
        stage_run(recipe)
    assert "\n" not in str(caught.value)
    assert not storage.exists(recipe.run_uri)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(make: MakeRecipe, tmp_path: Path) -> None:
    small = tiny_model_directory(tmp_path / "small", vocab_size=96)
    with pytest.raises(
        ConfigError, match=r"^data.manifest: its tokenizer has 300 tokens, the model's vocabulary 96; prep"
    ):
        stage_run(make(model={"path": str(small)}))


def test_a_base_too_low_for_the_window_is_said(make: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    stage_run(make(rope={"type": "keep"}, data={"target_length": 16384}))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "with rope_theta 500 a token 16 tokens back scores below" in record.getMessage()
    assert "target window of 16,384" in record.getMessage()


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe.yaml; give a run directory that `longspan train` made"):
        read_staged(str(tmp_path))


def test_staging_in_a_store(make: MakeRecipe, s3_bucket: str) -> None:
    recipe = make(output=f"{s3_bucket}/run")
    stage_run(recipe)
    stage_run(recipe)
    assert sorted(contents(recipe.run_uri)) == ["plan.parquet", "recipe.yaml"]
    assert read_staged(recipe.run_uri) == recipe
