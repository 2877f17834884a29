"""Which stages of a pipeline are done, which go on, which are new, and which no longer fit. Pure; `run` acts on it.

A stage is known by a mark: a hash of what decides its numbers and of the marks of the models that it begins with, so a
change of one stage changes the mark of every stage after it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from longspan.config.load import deciding_values
from longspan.config.pipeline import BASE, MergeStage, Pipeline, Stage, TrainStage
from longspan.config.resume import SCHEDULE, differences, flat, told
from longspan.errors import ConfigError

EVALUATED = "evaluate.manifest"
"""Field of a record's contents: the corpus that its model was asked on."""


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
        settings: its own, as they were; `mark.own` is their hash.
        made: names this very result; "" until the stage is finished. Made again, a stage has another.
        evaluated: hash of what `made` was asked (`evaluation_mark`); "" until it was.
        summary: what it came to.
        evaluation: its model's answers (`evaluate.run.evaluate_model`).
        reported: the folder's summary.json, plots and report.html tell all of this.
        contents: what lay at the places that it names (`launch.contents`), those of its evaluation too.
    """

    name: str
    mark: Mark
    began_with: Mapping[str, str]
    made: str = ""
    evaluated: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    reported: bool = False
    contents: Mapping[str, Any] = field(default_factory=dict)


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
        marks[stage.name] = _mark(_hash(own_settings(stage)), inputs)
    return marks


def inputs_of(stage: Stage) -> tuple[str, ...]:
    """Names of the stages (or `base`) whose models the stage begins with, without repetition."""
    if isinstance(stage, MergeStage):
        return (stage.a, stage.b)
    return () if stage.start is None else (stage.start,)


def own_settings(stage: Stage) -> dict[str, Any]:
    """What decides a stage's numbers, the models that it begins with by name, as JSON has it."""
    if isinstance(stage, MergeStage):
        return {key: getattr(stage, key) for key in ("a", "b", "weight", "rope", "vocabulary", "dtype")}
    values = deciding_values(stage.recipe)
    if stage.start is not None:
        # Not the place of the checkpoint: a directory may be moved, and what lies there is in the inputs' marks.
        values["model"] |= {"path": stage.start, "revision": None}
    return values


def _mark(own: str, inputs: dict[str, str]) -> Mark:
    return Mark(own, inputs, _hash([own, inputs]))


def asking_stage(pipeline: Pipeline) -> TrainStage:
    """The stage whose precision all models are asked in: the first that trains."""
    # There is one: a merge needs two models, and the pipeline begins with one.
    return next(stage for stage in pipeline.stages if isinstance(stage, TrainStage))


def evaluation_mark(pipeline: Pipeline, made: str) -> str:
    """Hash of the questions, of how they are asked, and of the very model that was asked."""
    assert pipeline.evaluate is not None
    model = asking_stage(pipeline).recipe.model
    how = [pipeline.seed, model.dtype, model.drop_sliding_window]
    return _hash([pipeline.evaluate.model_dump(mode="json", exclude={"base"}), how, made])


def plan_stages(
    pipeline: Pipeline, found: Mapping[str, Record], replaced: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[Step]:
    """What is to be done for each stage, in order.

    Args:
        found: the records in the output directory, by the name of their folder.
        replaced: by folder, what has another content than the record tells (`launch.contents.content_changes`);
        where it is the evaluation's corpus, the stage is asked again.

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
        reason = _changed(pipeline, stage, record, marks[stage.name], records)
        others = [change for change in replaced.get(stage.folder, ()) if not change.startswith(EVALUATED)]
        if reason is None and others:
            reason = f"what it began with has changed ({others[0]})"
        if reason is not None:
            raise _stale(pipeline, [stage, *_standing_on(pipeline, stage, found)], reason)
        steps.append(_step(pipeline, stage, record, stage.folder in replaced))
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


def _step(pipeline: Pipeline, stage: Stage, record: Record, is_other_text: bool) -> Step:
    if not record.made:
        return Step(stage, "resume", _asked(pipeline, stage))
    asked = _asked(pipeline, stage)
    if asked:
        asked = is_other_text or record.evaluated != evaluation_mark(pipeline, record.made)
    return Step(stage, "done", asked)


def _asked(pipeline: Pipeline, stage: Stage) -> bool:
    return pipeline.evaluate is not None and stage.evaluate


def _changed(pipeline: Pipeline, stage: Stage, record: Record, mark: Mark, records: Mapping[str, Record]) -> str | None:
    """Why the stage that wrote `record` is not the one that is asked for; None where it is."""
    if record.mark.own != mark.own and not _resumes(stage, record):
        return f"its own settings have changed{_differences(record.settings, own_settings(stage))}"
    for name, whole in mark.inputs.items():
        if record.mark.inputs.get(name) != whole:
            what = f"the model of the pipeline ({pipeline.base})" if name == BASE else f"'{name}'"
            return f"{what}, which it began with, has changed"
        if name in records and record.began_with.get(name) != records[name].made:
            return f"'{name}', which it began with, has been made again"
    return None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first settings that differ, as ` (train.steps was 4, is 5)`; nothing where the old are not known."""
    return f" ({told(differences(flat(old), flat(new)))})" if old else ""


def _resumes(stage: Stage, record: Record) -> bool:
    """Whether a stage that is not finished may resume with these settings: only its schedule is another."""
    found = differences(flat(record.settings), flat(own_settings(stage)))
    can = isinstance(stage, TrainStage) and not record.made and bool(record.settings)
    return can and all(change.field in SCHEDULE for change in found)


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
