"""Which stages run, go on, are left as they are, or are refused: from marks and records alone."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from longspan.config.pipeline import Pipeline, load_pipeline
from longspan.errors import ConfigError
from longspan.recipes.plan import (
    Record,
    evaluation_mark,
    inputs_of,
    own_settings,
    plan_stages,
    read_record,
    record_values,
    stage_marks,
)
from tests.recipes.conftest import three_stages

OWN = "its own settings have changed"
EVALUATE = '{"manifest": "c", "text_source": "held", "lengths": [32]}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "line.yaml"
    path.write_text(json.dumps(three_stages("corpus", "org/model", "out")))
    return path


def records(pipeline: Pipeline, made: Sequence[str], **changes: Record) -> dict[str, Record]:
    """Records as a run leaves them; `made` names the finished stages, in order."""
    marks = stage_marks(pipeline)
    found = {}
    for stage in pipeline.stages:
        if stage.name in made:
            began_with = {name: "" if name == "base" else f"made-{name}" for name in inputs_of(stage)}
            found[stage.folder] = Record(
                stage.name, marks[stage.name], began_with, made=f"made-{stage.name}", settings=own_settings(stage)
            )
    return found | changes


def actions(pipeline: Pipeline, found: dict[str, Record]) -> list[str]:
    return [step.action for step in plan_stages(pipeline, found)]


@pytest.mark.parametrize("count", range(4))
def test_finished_stages_are_not_run_again(file: Path, count: int) -> None:
    pipeline = load_pipeline(file)
    made = [stage.name for stage in pipeline.stages][:count]
    assert actions(pipeline, records(pipeline, made)) == ["done"] * count + ["run"] * (3 - count)


def test_a_stage_that_was_begun_goes_on(file: Path) -> None:
    pipeline = load_pipeline(file)
    begun = Record("replay", stage_marks(pipeline)["replay"], {"extend": "made-extend"})
    found = records(pipeline, ["extend"], **{"02-replay": begun})
    assert actions(pipeline, found) == ["done", "resume", "run"]


@pytest.mark.parametrize("key", ["steps=9", "learning_rate=0.5", "grad_clip=2", "schedule=wsd"])
def test_a_stage_that_is_not_finished_resumes_with_another_schedule(file: Path, key: str) -> None:
    before, after = load_pipeline(file), load_pipeline(file, [f"stages.1.train.{key}"])
    stage = before.stages[1]
    begun = Record("replay", stage_marks(before)["replay"], {"extend": "made-extend"}, settings=own_settings(stage))
    found = records(before, ["extend"], **{"02-replay": begun})
    assert actions(after, found) == ["done", "resume", "run"]
    with pytest.raises(ConfigError, match=rf"{re.escape(OWN)} \(train\.{key.split('=')[0]} was "):
        plan_stages(after, records(before, ["extend", "replay"]))
    other = load_pipeline(file, ["stages.1.train.weight_decay=0.5"])
    with pytest.raises(ConfigError, match=rf"{re.escape(OWN)} \(train\.weight_decay was 0\.0, is 0\.5\)"):
        plan_stages(other, found)


def test_how_and_where_it_runs_may_change(file: Path) -> None:
    """Workers, cadence of checkpoints and the output directory decide no number."""
    found = records(load_pipeline(file), ["extend", "replay", "blend"])
    again = ["output=elsewhere", "common.parallel.prefetch_batches=1", "stages.0.train.save_every=2", "name=other"]
    assert actions(load_pipeline(file, again), found) == ["done"] * 3


@pytest.mark.parametrize(
    ("change", "stale", "reason", "remove"),
    [
        ("stages.0.train.steps=5", "extend", f"{OWN} (train.steps was 4, is 5)", "01-extend, 02-replay, 03-blend"),
        ("stages.1.train.steps=5", "replay", f"{OWN} (train.steps was 2, is 5)", "02-replay, 03-blend"),
        ("stages.2.weight=0.25", "blend", f"{OWN} (weight was 0.5, is 0.25)", "03-blend"),
        ("stages.2.a=extend", "blend", f'{OWN} (a was "base", is "extend")', "03-blend"),
        ("stages.1.start=base", "replay", f'{OWN} (model.path was "extend", is "base")', "02-replay, 03-blend"),
        (
            "base=org/other",
            "extend",
            "the model of the pipeline (org/other), which it began with, has changed",
            "01-extend, 02-replay, 03-blend",
        ),
        (
            "revision=v2",
            "extend",
            "the model of the pipeline (org/model), which it began with, has changed",
            "01-extend, 02-replay, 03-blend",
        ),
    ],
)
def test_a_changed_stage_is_refused_by_name(file: Path, change: str, stale: str, reason: str, remove: str) -> None:
    found = records(load_pipeline(file), ["extend", "replay", "blend"])
    with pytest.raises(ConfigError) as raised:
        plan_stages(load_pipeline(file, [change]), found)
    assert str(raised.value) == (
        f"output: stage '{stale}' in out does not fit any more: {reason}; remove {remove} there to make it again, or"
        " give another output"
    )


def test_of_many_changes_three_are_told_and_of_an_old_record_none(file: Path) -> None:
    found = records(load_pipeline(file), ["extend"])
    values = {"steps": 5, "weight_decay": 0.5, "beta1": 0.8, "beta2": 0.9, "grad_clip": 2.0}
    changed = load_pipeline(file, [f"stages.0.train.{key}={value}" for key, value in values.items()])
    with pytest.raises(ConfigError, match=r"\(train\.steps was 4, is 5; .*; .*; and 2 more\); remove 01-extend"):
        plan_stages(changed, found)
    old = Record("extend", found["01-extend"].mark, {"base": ""}, made="made-extend")
    with pytest.raises(ConfigError, match=r"its own settings have changed; remove 01-extend"):
        plan_stages(changed, {"01-extend": old})


def test_a_stage_stands_on_what_was_changed_and_made_again(file: Path) -> None:
    """The changed stage was removed and run anew: what had begun with the old one does not fit."""
    old, new = load_pipeline(file), load_pipeline(file, ["stages.0.train.steps=5"])
    found = records(old, ["extend", "replay", "blend"])
    found["01-extend"] = records(new, ["extend"])["01-extend"]
    with pytest.raises(
        ConfigError, match=r"'replay' .*: 'extend', which it began with, has changed; remove 02-replay,"
    ):
        plan_stages(new, found)


def test_the_same_stage_made_again_is_another_model(file: Path) -> None:
    pipeline = load_pipeline(file)
    found = records(pipeline, ["extend", "replay", "blend"])
    found["01-extend"] = Record("extend", stage_marks(pipeline)["extend"], {"base": ""}, made="made-anew")
    with pytest.raises(ConfigError, match=r"'replay' .*: 'extend', which it began with, has been made again; remove"):
        plan_stages(pipeline, found)


def test_a_stage_whose_foundation_is_gone(file: Path) -> None:
    pipeline = load_pipeline(file)
    with pytest.raises(ConfigError, match=r"'replay' .*: 'extend', which it stands on, is not there any more; remove"):
        plan_stages(pipeline, records(pipeline, ["replay", "blend"]))


def test_a_stage_that_stands_on_nothing_changed_stays(file: Path) -> None:
    """A second line from the base is not touched by the first."""
    beside = ["stages.1.start=base", "stages.2.a=extend"]
    pipeline = load_pipeline(file, beside)
    assert actions(pipeline, records(pipeline, ["replay"])) == ["run", "done", "run"]
    changed = load_pipeline(file, [*beside, "stages.0.train.steps=5"])
    with pytest.raises(ConfigError, match="remove 01-extend, 03-blend there"):
        plan_stages(changed, records(pipeline, ["extend", "replay", "blend"]))


def test_folders_of_another_pipeline_are_refused(file: Path) -> None:
    pipeline = load_pipeline(file)
    found = records(pipeline, ["extend"])
    found["02-sft"] = Record("sft", stage_marks(pipeline)["replay"], {})
    with pytest.raises(ConfigError, match="output: out holds 02-sft, which this pipeline does not have"):
        plan_stages(pipeline, found)


def test_a_model_is_asked_once_for_the_same_questions(file: Path) -> None:
    pipeline = load_pipeline(file, [f"evaluate={EVALUATE}", "stages.1.evaluate=false"])
    found = records(pipeline, ["extend", "replay", "blend"])
    assert [step.evaluate for step in plan_stages(pipeline, found)] == [True, False, True]
    mark = evaluation_mark(pipeline, "made-extend")
    found["01-extend"] = Record(**{**vars(found["01-extend"]), "evaluated": mark})
    assert [step.evaluate for step in plan_stages(pipeline, found)] == [False, False, True]
    fixed = [f"evaluate={EVALUATE}", "stages.1.evaluate=false", "stages.1.seed=1", "stages.0.seed=0", "seed=9"]
    other = load_pipeline(file, fixed)
    assert evaluation_mark(other, "made-extend") != mark, "another seed asks other questions"
    narrow = load_pipeline(file, [f"evaluate={EVALUATE}", "common.model.dtype=bfloat16"])
    assert evaluation_mark(narrow, "made-base") != evaluation_mark(pipeline, "made-base")
    more = load_pipeline(file, [f"evaluate={EVALUATE}", "evaluate.lengths=[32,64]"])
    assert [(step.action, step.evaluate) for step in plan_stages(more, found)] == [("done", True)] * 3
    assert not any(step.evaluate for step in plan_stages(load_pipeline(file), found))


def test_a_record_goes_through_json(file: Path) -> None:
    pipeline = load_pipeline(file)
    record = records(pipeline, ["extend"])["01-extend"]
    assert read_record(json.loads(json.dumps(record_values(record))), "x") == record
    wrongs: tuple[object, ...] = ({}, [], {"mark": {}}, {**record_values(record), "more": 1})
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=r"^x: not the record of a stage; remove its folder"):
            read_record(wrong, "x")
