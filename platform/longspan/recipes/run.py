"""A pipeline from its first stage to its last. Every stage leaves a folder OUTPUT/NN-NAME with its recipe, checkpoint,
metrics, report and stage.json; what is finished is not done again, what was interrupted goes on.

`longspan run` and `jobs/train.py` call `run_pipeline`.
"""

import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from longspan import storage
from longspan.checkpoint.card import add_evaluation
from longspan.config.model import Model
from longspan.config.pipeline import BASE, CHECKPOINT, Pipeline, Stage, TrainStage, show_pipeline
from longspan.config.recipe import Evaluate, Recipe
from longspan.errors import ConfigError, DataError
from longspan.launch.contents import content_changes, corpus_contents, model_contents, recipe_contents
from longspan.model.identity import is_directory
from longspan.recipes.actions import Actions, base_directory, real_actions
from longspan.recipes.ahead import check_ahead
from longspan.recipes.plan import (
    EVALUATED,
    Record,
    Step,
    asking_stage,
    evaluation_mark,
    inputs_of,
    own_settings,
    plan_stages,
    read_record,
    record_values,
    stage_marks,
)
from longspan.recipes.summary import stage_summary, write_stage_report, write_summary

RECORD_FILE = "stage.json"
BASE_FILE = "base.json"
PIPELINE_FILE = "pipeline.yaml"
_FOLDER = re.compile(r"^\d\d-")
Say = Callable[[str], None]


def run_pipeline(pipeline: Pipeline, say: Say | None = None, actions: Actions | None = None) -> dict[str, Any]:
    """Run what is not done yet; returns OUTPUT/summary.json, beside which lies OUTPUT/report.html.

    `summary["finished"]` is False where a signal stopped a stage: the same call goes on.

    Args:
        say: takes lines of text, one or two a stage.
        actions: what trains, merges and evaluates; `real_actions` when left out.

    Raises:
        HeldError: another driver writes to the output; LeaseLostError: one has taken it over.
        ConfigError: a stage there does not fit the pipeline (see `plan.plan_stages`); what a stage itself finds wrong.
        LongspanError: as training, merging and evaluation do.
    """
    say, actions = say or (lambda line: None), actions or real_actions()
    pipeline = replace(pipeline, output=storage.absolute(pipeline.output))
    with storage.hold(pipeline.output, "pipeline"):
        return _run(pipeline, say, actions)


def _run(pipeline: Pipeline, say: Say, actions: Actions) -> dict[str, Any]:
    found = read_records(pipeline.output)
    steps = plan_stages(pipeline, found, _replaced(pipeline, found))
    check_ahead(pipeline, steps)
    storage.clear_unfinished(pipeline.output)
    storage.write_text(storage.join(pipeline.output, PIPELINE_FILE), show_pipeline(pipeline))
    base = _base_answers(pipeline, actions, say)
    records = {record.name: record for record in found.values()}
    for step in steps:
        record = _do(pipeline, step, records, actions, say)
        records[step.stage.name] = record
        if not record.made:
            say(f"{step.stage.name}: stopped; the same command resumes from there")
            break
    return write_summary(pipeline, base, records)


def _replaced(pipeline: Pipeline, found: Mapping[str, Record]) -> dict[str, list[str]]:
    """By folder of a stage, what lies there now instead of what its record tells."""
    stages = [stage for stage in pipeline.stages if stage.folder in found]
    now = {stage.folder: {**_contents(pipeline, stage), **_evaluated_text(pipeline)} for stage in stages}
    changes = {folder: content_changes(found[folder].contents, contents) for folder, contents in now.items()}
    return {folder: told for folder, told in changes.items() if told}


def _contents(pipeline: Pipeline, stage: Stage) -> dict[str, Any]:
    """Of what a stage begins with from outside the pipeline."""
    if isinstance(stage, TrainStage):
        held = recipe_contents(_located(pipeline, stage))
        if stage.start not in (None, BASE):
            del held["model.path"]
        return held
    return model_contents(Model(path=pipeline.base, revision=pipeline.revision)) if BASE in inputs_of(stage) else {}


def _evaluated_text(pipeline: Pipeline) -> dict[str, Any]:
    return corpus_contents(EVALUATED, pipeline.evaluate.manifest) if pipeline.evaluate is not None else {}


def read_records(output: str) -> dict[str, Record]:
    """The records of the stages in an output directory, by the name of their folder.

    Raises:
        ConfigError: a file that is no record.
    """
    records = {}
    for folder in sorted(storage.list_folders(output)):
        uri = storage.join(output, folder, RECORD_FILE)
        if _FOLDER.match(folder) and storage.exists(uri):
            try:
                values = storage.read_json(uri)
            except DataError:  # no JSON at all
                values = None
            records[folder] = read_record(values, uri)
    return records


def _do(pipeline: Pipeline, step: Step, records: Mapping[str, Record], actions: Actions, say: Say) -> Record:
    """One stage made, gone on with, asked, or left as it is; its record, `made` empty where it was stopped."""
    stage = step.stage
    if step.action == "done":
        record = records[stage.name]
        say(f"{stage.name}: done already")
    else:
        record = _make(pipeline, step, records, actions, say)
    if not record.made:
        return record
    if step.evaluate and pipeline.evaluate is not None:
        say(f"{stage.name}: evaluating at {max(pipeline.evaluate.lengths):,} tokens and below")
        answers = actions.evaluate(_model(pipeline, stage.name), _asked(pipeline))
        add_evaluation(_model(pipeline, stage.name), answers)
        evaluated = evaluation_mark(pipeline, record.made)
        contents = {**record.contents, **_evaluated_text(pipeline)}
        record = replace(record, evaluation=answers, evaluated=evaluated, reported=False, contents=contents)
        _write(pipeline, stage, record)
    if not record.reported:
        write_stage_report(pipeline.folder(stage), record)
        record = replace(record, reported=True)
        _write(pipeline, stage, record)
    return record


def _make(pipeline: Pipeline, step: Step, records: Mapping[str, Record], actions: Actions, say: Say) -> Record:
    stage = step.stage
    began_with = {name: records[name].made if name != BASE else "" for name in inputs_of(stage)}
    mark, contents = stage_marks(pipeline)[stage.name], _contents(pipeline, stage)
    record = Record(stage.name, mark, began_with, settings=own_settings(stage), contents=contents)
    _write(pipeline, stage, record)
    try:
        result = _act(pipeline, step, actions, say)
    except ConfigError as error:
        if step.action == "run":
            # Found before anything was begun: corrected settings are not another stage's.
            storage.delete(storage.join(pipeline.folder(stage), RECORD_FILE))
        raise type(error)(f"stage '{stage.name}': {error}") from None
    if not result.get("finished", True):
        return record
    record = replace(record, made=uuid.uuid4().hex, summary=stage_summary(stage, result))
    _write(pipeline, stage, record)
    return record


def _act(pipeline: Pipeline, step: Step, actions: Actions, say: Say) -> dict[str, Any]:
    stage = step.stage
    if isinstance(stage, TrainStage):
        say(f"{stage.name}: {'going on' if step.action == 'resume' else 'training'}, {stage.recipe.train.steps} steps")
        return actions.train(_located(pipeline, stage))
    say(f"{stage.name}: merging {stage.a} and {stage.b}")
    target = storage.join(pipeline.folder(stage), CHECKPOINT)
    if step.action == "resume":
        # Half of an upload: a merge starts anew, and only into an empty place.
        storage.delete_tree(target)
    started = time.perf_counter()
    result = actions.merge(stage, _model(pipeline, stage.a), _model(pipeline, stage.b), target)
    return result | {"seconds": time.perf_counter() - started}


def _located(pipeline: Pipeline, stage: TrainStage) -> Recipe:
    """The stage's recipe with its folder, and the checkpoint that it begins with, as absolute places."""
    recipe = stage.recipe.model_copy(update={"output": pipeline.folder(stage)})
    if stage.start in (None, BASE):
        return recipe
    model = recipe.model.model_copy(update={"path": _model(pipeline, stage.start or "")})
    return recipe.model_copy(update={"model": model})


def _model(pipeline: Pipeline, name: str) -> str:
    """Directory of the model of a stage, or of the base."""
    if name == BASE:
        return base_directory(pipeline.base, pipeline.revision)
    stage = next(stage for stage in pipeline.stages if stage.name == name)
    return storage.join(pipeline.folder(stage), CHECKPOINT)


def _asked(pipeline: Pipeline) -> Recipe:
    """The same for every model, so that they can be compared: precision and place are the first train stage's."""
    assert pipeline.evaluate is not None
    recipe = asking_stage(pipeline).recipe
    asked = Evaluate(**pipeline.evaluate.model_dump(exclude={"manifest", "base"}))
    data = recipe.data.model_copy(update={"manifest": pipeline.evaluate.manifest})
    return recipe.model_copy(update={"evaluate": asked, "data": data, "seed": pipeline.seed})


def _base_answers(pipeline: Pipeline, actions: Actions, say: Say) -> dict[str, Any] | None:
    """What the base model answers, asked once and kept in OUTPUT/base.json; None where it is not to be asked."""
    if pipeline.evaluate is None or not pipeline.evaluate.base:
        return None
    mark = evaluation_mark(pipeline, stage_marks(pipeline)[BASE].whole)
    uri = storage.join(pipeline.output, BASE_FILE)
    kept: dict[str, Any] = storage.read_json(uri) if storage.exists(uri) else {}
    contents = {**model_contents(Model(path=pipeline.base, revision=pipeline.revision)), **_evaluated_text(pipeline)}
    if kept.get("evaluated") != mark or content_changes(kept.get("contents", {}), contents):
        say(f"{BASE}: evaluating {pipeline.base}")
        # A hub's name means the same on every node; a copy of it lies on this one only.
        name = (
            pipeline.base if pipeline.revision is None and not is_directory(pipeline.base) else _model(pipeline, BASE)
        )
        answers = actions.evaluate(name, _asked(pipeline))
        kept = {"evaluated": mark, "evaluation": answers, "contents": contents}
        storage.write_json(uri, kept)
    evaluation: dict[str, Any] = kept["evaluation"]
    return evaluation


def _write(pipeline: Pipeline, stage: Stage, record: Record) -> None:
    storage.write_json(storage.join(pipeline.folder(stage), RECORD_FILE), record_values(record))
