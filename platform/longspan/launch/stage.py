"""Before anything is spent: the recipe is checked against model, corpus and run directory, and the sample plan is
written.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from longspan import storage
from longspan.checkpoint.parent import PARENT_FILE, write_parent
from longspan.config.data import Data
from longspan.config.load import to_yaml
from longspan.config.recipe import Recipe
from longspan.config.resume import run_mark
from longspan.config.weighting import LongCE
from longspan.corpus.changed import check_corpus, expect_manifest, store_planned_manifest
from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import MANIFEST_FILE, Manifest, named_manifest
from longspan.corpus.plan_table import INFO_FILE, read_plan_info, write_plan
from longspan.errors import ConfigError, DataError
from longspan.evaluate.heldout import check_held_out
from longspan.feed.scores import check_scores, scores_mark
from longspan.feed.source import PLAN_FOLDER
from longspan.launch.begun import RECIPE_FILE, Begun, check_trained_samples, look, pinned_recipe, read_staged
from longspan.launch.survey import describe_survey, open_survey, watched, write_description
from longspan.launch.vocabulary import check_tokenizer
from longspan.model.checks import check_model
from longspan.model.identity import read_identity, write_identity
from longspan.model.load import extend_config, head_dim, read_config
from longspan.planner.settings import plan_settings
from longspan.rope import RopeSettings, from_hf, rotary_dim, theta_warning
from longspan.rope.resolve import replacement
from longspan.sampling.plan import plan_parts
from longspan.topology import check_attention_heads, check_head_halves

__all__ = ["RECIPE_FILE", "check_recipe", "located", "read_staged", "stage_run"]
_logger = logging.getLogger(__name__)


def located(recipe: Recipe) -> Recipe:
    """The recipe with its local paths made absolute: workers on Ray have other working directories."""
    path = recipe.model.path
    if storage.is_remote(path) or Path(path).exists():
        path = storage.absolute(path)
    return recipe.model_copy(
        update={
            "output": storage.absolute(recipe.run_uri),
            "model": recipe.model.model_copy(update={"path": path}),
            "data": _located_data(recipe.data),
        }
    )


def _located_data(data: Data) -> Data:
    selection, weighting = data.selection, data.loss_weighting
    if selection is not None and selection.scores is not None:
        selection = selection.model_copy(update={"scores": storage.absolute(selection.scores)})
    if isinstance(weighting, LongCE):
        weighting = weighting.model_copy(update={"scores": storage.absolute(weighting.scores)})
    changes = {"manifest": storage.absolute(data.manifest), "selection": selection, "loss_weighting": weighting}
    return data.model_copy(update=changes)


def check_recipe(recipe: Recipe) -> tuple[Any, Manifest]:
    """The model's config with the recipe's RoPE in it, and the corpus manifest.

    Raises:
        ConfigError, TopologyError: one line, naming the field that does not fit the model or the corpus.
        DataError: a file of the corpus is missing or of another size, or the scores that the recipe names are not those
            of the corpus; names it.
    """
    config = read_config(recipe.model)
    check_model(recipe.model, config, device=_local_device(recipe))
    heads = (config.num_attention_heads, config.num_key_value_heads, recipe.parallel.sequence_parallel)
    check_attention_heads(*heads)
    if recipe.model.attention_pattern:
        check_head_halves(*heads)
    _check_scale(recipe, config.max_position_embeddings)
    own = from_hf(config.to_dict())
    settings = extend_config(config, recipe.rope, recipe.data.target_length)
    replaced = replacement(own, recipe.rope, settings)
    if replaced is not None:
        _logger.warning("%s", replaced)
    _check_evaluated_scale(recipe, own, settings)
    manifest = named_manifest(recipe.data.manifest, "data.manifest")
    plan_settings(recipe, manifest.source_names)
    if recipe.evaluate.lengths and recipe.evaluate.text_source is None:
        raise ConfigError("evaluate.text_source: required when evaluate.lengths is given; name a held-out source")
    if recipe.evaluate.text_source is not None:
        check_held_out(manifest, recipe.evaluate.text_source, recipe.evaluate.lengths or [0])
    check_tokenizer(recipe, manifest, config.vocab_size)
    check_corpus(recipe.data.manifest, manifest)
    check_scores(recipe, manifest)
    _warn_of_base(settings, recipe, head_dim(config))
    return config, manifest


def _local_device(recipe: Recipe) -> torch.device | None:
    """Where this machine would train; None where others do."""
    if recipe.parallel.launch != "local":
        return None
    asked = recipe.parallel.use_gpu
    return torch.device("cuda" if asked is True or (asked == "auto" and torch.cuda.is_available()) else "cpu")


def _warn_of_base(settings: RopeSettings, recipe: Recipe, dimensions: int) -> None:
    if settings.rope_type != "default":
        return
    warning = theta_warning(settings.rope_theta, recipe.data.target_length, rotary_dim(settings, dimensions))
    if warning is not None:
        _logger.warning("%s", warning)


def _check_scale(recipe: Recipe, max_position_embeddings: int) -> None:
    """E2-LLM's scale is counted from one window, in the positions as in the exported RoPE."""
    window = recipe.rope.original_max_position_embeddings or max_position_embeddings
    if recipe.rope.type == "e2llm" and recipe.positions.window != window:
        raise ConfigError(
            f"positions.window: {recipe.positions.window}, but the exported scale would be counted from the model's"
            f" window of {window}; give that one, or rope.original_max_position_embeddings:"
            f" {recipe.positions.window}"
        )


def _check_evaluated_scale(recipe: Recipe, own: RopeSettings, exported: RopeSettings) -> None:
    """A checkpoint that the evaluation could ask at no scale of E2-LLM is refused before it is trained."""
    if not recipe.evaluate.lengths or recipe.scale_window is None:
        return
    if exported.rope_type not in ("default", "linear"):
        raise ConfigError(
            f"evaluate.scale_window: the checkpoint's RoPE will be '{exported.rope_type}', which has no scale to"
            " choose; set evaluate.scale_window: 0"
        )
    if recipe.evaluate.scale_window is None and (own.factor or 1) != 1:
        raise ConfigError(
            f"evaluate.scale_window: the model is already 'linear' by {own.factor:g}, and the scale of an evaluation"
            f" counts from its plain RoPE, not from positions.window {recipe.positions.window}; give the window of"
            " that, or 0 to ask at the checkpoint's own RoPE"
        )


def stage_run(recipe: Recipe, resume_from: str | None = None) -> Recipe:
    """Make the run directory: the plan with a copy of the corpus's manifest (RUN/plan), what it holds (RUN/plan.json),
    the model by its content (RUN/model.json), the checkpoint that it begins with (RUN/parent.json) and the resolved
    recipe (RUN/recipe.yaml). What has been staged before stays; what was cut short is made anew.

    Args:
        resume_from: RUN or RUN@STEP, a run's checkpoint to begin with.

    Returns:
        The recipe with its hub revision resolved.

    Raises:
        ConfigError: the directory holds a run of another recipe or model; see also `check_recipe` and `begun.look`.
        DataError: the corpus has changed since the run was staged; says what.
    """
    asked = recipe.model.revision
    recipe = pinned_recipe(recipe, resume_from)
    config, manifest = check_recipe(recipe)
    storage.clear_unfinished(recipe.run_uri)
    begun = look(recipe, asked, resume_from)
    if not _has_plan(begun, manifest):
        _write_plan(begun, config, manifest)
    if read_identity(recipe.run_uri) != (begun.identity, begun.asked):
        write_identity(recipe.run_uri, begun.identity, begun.asked)
    if begun.parent is None:
        storage.delete(storage.join(recipe.run_uri, PARENT_FILE))  # of a staging that was cut short
    else:
        write_parent(recipe.run_uri, begun.parent)
    storage.write_text(storage.join(recipe.run_uri, RECIPE_FILE), to_yaml(recipe))
    return recipe


def _has_plan(begun: Begun, manifest: Manifest) -> bool:
    """True where a plan of this recipe over this corpus, long enough, is there.

    Raises:
        DataError: it is there, or the parent's is, but over another corpus or for other scores.
    """
    recipe = begun.recipe
    uri = storage.join(recipe.run_uri, PLAN_FOLDER)
    found = _made_for(begun, uri, manifest)
    if found is None:
        if begun.parent is not None:
            _made_for(begun, storage.join(begun.parent.run, PLAN_FOLDER), manifest)
        return False
    ends = json.loads(found["ends"])
    return bool(
        found["recipe"] == run_mark(recipe) and (ends[-1] >= begun.ends[-1] if begun.commit else ends == [*begun.ends])
    )


def _made_for(begun: Begun, uri: str, manifest: Manifest) -> dict[str, str] | None:
    """What the plan at `uri` was made for; None where there is none, or one of another recipe.

    Raises:
        DataError: as `_has_plan`.
    """
    if not all(storage.exists(storage.join(uri, name)) for name in (MANIFEST_FILE, INFO_FILE)):
        return None
    found = read_plan_info(uri).metadata
    if begun.parent is None and found.get("recipe") != run_mark(begun.recipe):
        return None
    expect_manifest(begun.recipe.data.manifest, manifest, found["manifest"], uri)
    if found.get("scores", "") != scores_mark(begun.recipe):
        raise DataError(
            f"{uri.rpartition('/')[0]}: the corpus was scored anew since the run was staged; restore the scores, or"
            " give the run another output"
        )
    return found


def _write_plan(begun: Begun, config: Any, manifest: Manifest) -> None:
    """RUN/plan and RUN/plan.json, in one pass. The copy of the manifest comes last: where it is, all is there."""
    recipe = begun.recipe
    uri = storage.join(recipe.run_uri, PLAN_FOLDER)
    table = corpus_table(recipe.data.manifest, manifest)
    settings = plan_settings(recipe, manifest.source_names, begun.ends)
    trained_by = uri if begun.parent is None or storage.exists(uri) else storage.join(begun.parent.run, PLAN_FOLDER)
    check_trained_samples(begun, trained_by, plan_parts(table, settings))
    survey = open_survey(table, settings)
    parts = plan_parts(table, settings)
    scores = scores_mark(recipe)
    made_for = {"recipe": run_mark(recipe), "manifest": manifest.fingerprint, "ends": json.dumps(begun.ends)}
    storage.delete_tree(uri)
    write_plan(
        uri,
        watched(parts, survey),
        manifest.source_names,
        settings.sample_length,
        settings.num_samples,
        {**made_for, **({"scores": scores} if scores else {})},
    )
    description = describe_survey(recipe, config, manifest, survey)
    write_description(recipe, description)
    store_planned_manifest(uri, manifest)
    for text in description["warnings"]:
        if not text.startswith("rope:"):  # said by `check_recipe` at every start
            _logger.warning("%s", text)
