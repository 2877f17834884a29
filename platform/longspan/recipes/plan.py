"""Which stages of a pipeline are done, which go on, which are new, and which no longer fit. Pure; `run` acts on it.

A stage is known by a mark: a hash of what decides its numbers and of the marks of the models that it begins with, so a
change of one stage changes the mark of every stage after it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from longspan.config.load import fingerprint
from longspan.config.pipeline import BASE, Evaluation, MergeStage, Pipeline, Stage
from longspan.errors import ConfigError


@dataclass(frozen=True)
class Mark:
    """What a stage is: `own` of its settings, `inputs` (name to mark) of the models that it begins with, `whole` of
    both.
    """

    own: str
    inputs: Mapping[str, str]
    whole: str


@dataclass(frozen=True)
class Record:
    """What a stage wrote down about itself in its folder, in stage.json.

    Attributes:
        name: of the stage.
        mark: as it was when the stage began.
        began_with: the models that it began with, name to the `made` of their records ("" for those outside).
        made: names this very result; "" until the stage is finished. Made again, a stage has another.
        evaluated: hash of what `made` was asked (`evaluation_mark`); "" until it was.
        summary: what it came to.
        evaluation: its model's answers (`evaluate.run.evaluate_model`).
    """

    name: str
    mark: Mark
    began_with: Mapping[str, str]
    made: str = ""
    evaluated: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What is to be done for a stage: make it (`run` anew, `resume`), or nothing (`done`); and whether to ask it."""

    stage: Stage
    action: Literal["run", "resume", "done"]
    evaluate: bool


def stage_marks(pipeline: Pipeline) -> dict[str, Mark]:
    """The mark of every stage by its name, and that of the base model as `base`."""
    marks = {BASE: _mark(_hash([pipeline.base, pipeline.revision]), {})}
    for stage in pipeline.stages:
        inputs = {name: marks[name].whole for name in inputs_of(stage)}
        marks[stage.name] = _mark(_own(stage), inputs)
    return marks


def inputs_of(stage: Stage) -> tuple[str, ...]:
    """Names of the stages (or `base`) whose models the stage begins with, without repetition."""
    if isinstance(stage, MergeStage):
        return (stage.a, stage.b)
    return () if stage.start is None else (stage.start,)


def _own(stage: Stage) -> str:
    if isinstance(stage, MergeStage):
        return _hash([stage.a, stage.b, stage.weight, stage.rope, stage.dtype])
    if stage.start is None:
        return fingerprint(stage.recipe)
    # The place of the checkpoint is left out: a directory may be moved, and what lies there is in the inputs' marks.
    model = stage.recipe.model.model_copy(update={"path": stage.start, "revision": None})
    return fingerprint(stage.recipe.model_copy(update={"model": model}))


def _mark(own: str, inputs: dict[str, str]) -> Mark:
    return Mark(own, inputs, _hash([own, inputs]))


def evaluation_mark(evaluation: Evaluation, made: str) -> str:
    """Hash of the questions and of the very model that was asked."""
    return _hash([evaluation.model_dump(mode="json", exclude={"base"}), made])


def plan_stages(pipeline: Pipeline, found: Mapping[str, Record]) -> list[Step]:
    """What is to be done for each stage, in order.

    Args:
        found: the records in the output directory, by the name of their folder.

    Raises:
        ConfigError: a stage was made with other settings or from another model, or a folder belongs to no stage; names
            the stage, what has changed, and the mend.
    """
    folders = {stage.folder for stage in pipeline.stages}
    strange = sorted(set(found) - folders)
    if strange:
        raise ConfigError(
            f"output: {pipeline.output} holds {', '.join(strange)}, which this pipeline does not have; give it another"
            " output, or remove that"
        )
    marks = stage_marks(pipeline)
    records = {record.name: record for record in found.values()}
    steps: list[Step] = []
    for stage in pipeline.stages:
        record = found.get(stage.folder)
        if record is None:
            later = _standing_on(pipeline, stage, found)
            if later:
                raise _stale(pipeline, later, f"'{stage.name}', which it stands on, is not there any more")
            steps.append(Step(stage, "run", _asked(pipeline, stage)))
            continue
        reason = _changed(pipeline, record, marks[stage.name], records)
        if reason is not None:
            raise _stale(pipeline, [stage, *_standing_on(pipeline, stage, found)], reason)
        steps.append(_step(pipeline, stage, record))
    return steps


def _standing_on(pipeline: Pipeline, stage: Stage, found: Mapping[str, Record]) -> list[Stage]:
    """The stages with a record that began with the model of `stage`, or with one that did."""
    names = {stage.name}
    standing = []
    for other in pipeline.stages:
        if names & set(inputs_of(other)):
            names.add(other.name)
            standing += [other] if other.folder in found else []
    return standing


def _step(pipeline: Pipeline, stage: Stage, record: Record) -> Step:
    if not record.made:
        return Step(stage, "resume", _asked(pipeline, stage))
    asked = _asked(pipeline, stage)
    if asked and pipeline.evaluate is not None:
        asked = record.evaluated != evaluation_mark(pipeline.evaluate, record.made)
    return Step(stage, "done", asked)


def _asked(pipeline: Pipeline, stage: Stage) -> bool:
    return pipeline.evaluate is not None and stage.evaluate


def _changed(pipeline: Pipeline, record: Record, mark: Mark, records: Mapping[str, Record]) -> str | None:
    """Why the stage that wrote `record` is not the one that is asked for; None where it is."""
    if record.mark.own != mark.own:
        return "its own settings have changed"
    for name, whole in mark.inputs.items():
        if record.mark.inputs.get(name) != whole:
            what = f"the model of the pipeline ({pipeline.base})" if name == BASE else f"'{name}'"
            return f"{what}, which it began with, has changed"
        if name in records and record.began_with.get(name) != records[name].made:
            return f"'{name}', which it began with, has been made again"
    return None


def _stale(pipeline: Pipeline, stages: list[Stage], reason: str) -> ConfigError:
    return ConfigError(
        f"output: stage '{stages[0].name}' in {pipeline.output} does not fit any more: {reason}; remove"
        f" {', '.join(stage.folder for stage in stages)} there to make it again, or give another output"
    )


def record_values(record: Record) -> dict[str, Any]:
    """The record as stage.json holds it."""
    return asdict(record)


def read_record(values: Any, where: str) -> Record:
    """The record in stage.json. Raises ConfigError where it is none."""
    try:
        return Record(**{**values, "mark": Mark(**values["mark"])})
    except (TypeError, KeyError):
        raise ConfigError(f"{where}: not the record of a stage; remove its folder to make the stage again") from None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
