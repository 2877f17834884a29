"""What can be known to be wrong before the first stage is run: a mistake in the last one is not to cost the others."""

from collections.abc import Iterable

from longspan import storage
from longspan.config.model import Model
from longspan.config.pipeline import BASE, CHECKPOINT, Pipeline, TrainStage
from longspan.corpus.changed import check_corpus
from longspan.corpus.manifest import named_manifest
from longspan.errors import ConfigError, LongspanError
from longspan.evaluate.heldout import check_held_out
from longspan.feed.scores import check_scores
from longspan.planner.settings import plan_settings
from longspan.recipes.plan import Step, inputs_of


def check_ahead(pipeline: Pipeline, steps: Iterable[Step]) -> None:
    """Check the corpora, sources and scores of the stages still to run, the evaluation's corpus, the base model, and
    those of finished stages that are still needed.

    What a stage has done already needs none of it. The rest (RoPE, heads, vocabulary) needs the stage's own model, and
    is checked when the stage begins.

    Raises:
        ConfigError, DataError: one line that names the stage, or the pipeline's field, what is wrong and the mend.
    """
    steps = list(steps)
    begins = [step for step in steps if step.action != "done"]
    if any(BASE in inputs_of(step.stage) for step in begins):
        _check_base(pipeline)
    _check_made(pipeline, steps)
    for stage in (step.stage for step in begins):
        if isinstance(stage, TrainStage):
            _check_stage(stage)
    if pipeline.evaluate is not None and any(step.evaluate for step in steps):
        manifest = named_manifest(pipeline.evaluate.manifest, "evaluate.manifest")
        # Both are given: config.pipeline.Evaluation checks it.
        check_held_out(manifest, pipeline.evaluate.text_source or "", pipeline.evaluate.lengths)


def _check_base(pipeline: Pipeline) -> None:
    from longspan.model.checks import check_model
    from longspan.model.load import read_config

    model = Model(path=pipeline.base, revision=pipeline.revision)
    check_model(model, read_config(model, "base"), "base")


def _check_made(pipeline: Pipeline, steps: list[Step]) -> None:
    """The models of finished stages that others still need must be there: they are large, and get cleared away."""
    needed = {name for step in steps if step.action != "done" for name in inputs_of(step.stage)}
    for step in steps:
        if step.action != "done" or not (step.evaluate or step.stage.name in needed):
            continue
        model = storage.join(pipeline.folder(step.stage), CHECKPOINT)
        if not storage.exists(storage.join(model, "config.json")):
            raise ConfigError(
                f"stage '{step.stage.name}': it is done, but its model is not at {model} any more; put it back, or"
                f" remove {step.stage.folder} there, and the stages that stand on it, to make it again"
            )


def _check_stage(stage: TrainStage) -> None:
    try:
        manifest = named_manifest(stage.recipe.data.manifest, "data.manifest")
        plan_settings(stage.recipe, manifest.source_names)
        check_corpus(stage.recipe.data.manifest, manifest)
        check_scores(stage.recipe, manifest)
    except LongspanError as error:
        raise type(error)(f"stage '{stage.name}': {error}") from None
