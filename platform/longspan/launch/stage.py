"""Before anything is spent: the recipe is checked against model, manifest and run directory, and the sample plan is
written.
"""

import logging
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.checkpoint.commit import newest_commit
from longspan.config.load import fingerprint, parse, to_yaml
from longspan.config.recipe import Recipe
from longspan.corpus.index import document_index
from longspan.corpus.manifest import MANIFEST_FILE, Manifest, load_manifest
from longspan.corpus.plan_table import read_plan_metadata, write_plan
from longspan.errors import ConfigError, DataError, StorageError
from longspan.feed.source import PLAN_FILE
from longspan.model.load import extend_config, head_dim, read_config
from longspan.rope import RopeSettings, first_negative_distance, theta_lower_bound
from longspan.sampling.plan import Plan, build_plan
from longspan.topology import check_attention_heads

_logger = logging.getLogger(__name__)
RECIPE_FILE = "recipe.yaml"


def located(recipe: Recipe) -> Recipe:
    """The recipe with its local paths made absolute: workers on Ray have other working directories."""
    path = recipe.model.path
    if storage.is_remote(path) or Path(path).exists():
        path = storage.absolute(path)
    return recipe.model_copy(
        update={
            "output": storage.absolute(recipe.run_uri),
            "model": recipe.model.model_copy(update={"path": path}),
            "data": recipe.data.model_copy(update={"manifest": storage.absolute(recipe.data.manifest)}),
        }
    )


def check_recipe(recipe: Recipe) -> tuple[Any, Manifest]:
    """The model's config with the recipe's RoPE in it, and the corpus manifest.

    Raises:
        ConfigError, TopologyError, DataError: one line, naming the field that does not fit the model or the corpus.
    """
    config = read_config(recipe.model)
    check_attention_heads(config.num_attention_heads, config.num_key_value_heads, recipe.parallel.sequence_parallel)
    settings = extend_config(config, recipe.rope, recipe.data.target_length)
    if not storage.exists(storage.join(recipe.data.manifest, MANIFEST_FILE)):
        raise ConfigError(
            f"data.manifest: no finished corpus at '{recipe.data.manifest}'; give the directory that `longspan prepare`"
            " wrote, or run it first"
        )
    manifest = load_manifest(recipe.data.manifest)
    if manifest.tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"data.manifest: its tokenizer has {manifest.tokenizer.vocab_size} tokens, the model's vocabulary"
            f" {config.vocab_size}; prepare the corpus with the model's own tokenizer"
        )
    for number, phase in enumerate(recipe.data.mix):
        for name in phase.weights:
            if name not in manifest.sources:
                known = ", ".join(sorted(manifest.sources))
                raise ConfigError(f"data.mix.{number}.weights.{name}: not a source of the manifest; it has {known}")
    if recipe.evaluate.text_source is not None and recipe.evaluate.text_source not in manifest.sources:
        known = ", ".join(sorted(manifest.sources))
        raise ConfigError(f"evaluate.text_source: '{recipe.evaluate.text_source}' is not a source; it has {known}")
    if recipe.evaluate.lengths and recipe.evaluate.text_source is None:
        raise ConfigError("evaluate.text_source: required when evaluate.lengths is given; name a held-out source")
    _warn_of_base(settings, recipe, head_dim(config))
    return config, manifest


def _warn_of_base(settings: RopeSettings, recipe: Recipe, dimensions: int) -> None:
    if settings.rope_type != "default":
        return
    distance = first_negative_distance(settings.rope_theta, recipe.data.target_length, dimensions)
    if distance is not None:
        _logger.warning(
            "rope: with rope_theta %s a token %s tokens back scores below a random one on average, inside the target"
            " window of %s (arXiv 2405.14591); a larger base, for example %s, would not",
            f"{settings.rope_theta:,.0f}",
            f"{distance:,}",
            f"{recipe.data.target_length:,}",
            f"{theta_lower_bound(recipe.data.target_length, dimensions):,.0f}",
        )


def make_plan(recipe: Recipe, manifest: Manifest) -> Plan:
    """The sample plan: a pure function of manifest, recipe and seed."""
    index = document_index(recipe.data.manifest, manifest)
    upsample = recipe.data.upsample
    return build_plan(
        index.source_id,
        index.length,
        manifest.source_names,
        mix=[(phase.from_step, phase.weights) for phase in recipe.data.mix],
        steps=recipe.train.steps,
        global_batch_size=recipe.train.global_batch_size,
        sample_length=recipe.data.sample_length,
        upsample=(upsample.threshold, upsample.ratio) if upsample else None,
        seed=recipe.seed,
    )


def stage_run(recipe: Recipe) -> None:
    """Make the run directory: recipe.yaml (resolved) and plan.parquet. Does nothing where the same recipe has been
    staged.

    Raises:
        ConfigError: the directory holds a run of another recipe; see also `check_recipe`.
    """
    _, manifest = check_recipe(recipe)
    uri = storage.join(recipe.run_uri, RECIPE_FILE)
    mark = fingerprint(recipe)
    if storage.exists(uri):
        if fingerprint(read_staged(recipe.run_uri)) != mark:
            raise ConfigError(
                f"output: {recipe.run_uri} holds a run of another recipe (model, data, positions or training differ);"
                " give this one another output or remove that run"
            )
        newest_commit(recipe.run_uri, mark)
    elif any(name.startswith("checkpoints/") for name in storage.list_files(recipe.run_uri)):
        raise ConfigError(f"output: {recipe.run_uri} holds checkpoints but no {RECIPE_FILE}; give another output")
    plan_uri = storage.join(recipe.run_uri, PLAN_FILE)
    if not storage.exists(plan_uri):
        write_plan(plan_uri, make_plan(recipe, manifest), {"recipe": mark, "manifest": manifest.fingerprint})
    elif read_plan_metadata(plan_uri)["manifest"] != manifest.fingerprint:
        raise DataError(
            f"{recipe.data.manifest}: the corpus has changed since {plan_uri} was made; give the run another output"
        )
    storage.write_text(uri, to_yaml(recipe))


def read_staged(run_uri: str) -> Recipe:
    """The resolved recipe of a run directory."""
    import yaml

    uri = storage.join(run_uri, RECIPE_FILE)
    try:
        text = storage.read_text(uri)
    except StorageError:
        raise ConfigError(f"{run_uri}: no {RECIPE_FILE}; give a run directory that `longspan train` made") from None
    return parse(Recipe, yaml.safe_load(text), uri)
