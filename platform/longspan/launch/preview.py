"""`longspan plan`: what a recipe will do and cost, with plots, before anything is spent."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.corpus.index import document_index
from longspan.corpus.manifest import Manifest
from longspan.corpus.shards import ShardReader
from longspan.feed.batch import BatchSettings, Sample, make_micro_batch
from longspan.feed.source import position_method
from longspan.launch.stage import check_recipe, make_plan
from longspan.planner.describe import describe_plan
from longspan.planner.render import render
from longspan.positions import distance_histogram, measure_coverage
from longspan.rope import from_hf
from longspan.sampling.plan import Plan

SAMPLES_MEASURED = 256
_BINS = 64


def preview(recipe: Recipe) -> list[Any]:
    """Tables for the console; writes RUN/plan.json and two plots under RUN/plots."""
    config, manifest = check_recipe(recipe)
    plan = make_plan(recipe, manifest)
    index = document_index(recipe.data.manifest, manifest)
    fields = config.to_dict()
    samples = list(_positions(recipe, plan, manifest))
    description = describe_plan(recipe, plan, index.source_id, index.length, fields, from_hf(fields), samples)
    storage.write_text(storage.join(recipe.run_uri, "plan.json"), json.dumps(description, indent=2) + "\n")
    _plots(recipe, description, samples)
    return list(render(description))


def _positions(recipe: Recipe, plan: Plan, manifest: Manifest) -> Iterator[tuple[Any, Any]]:
    """(positions, cu_seqlens) of samples spread evenly over the run, as training will see them."""
    read = ShardReader(recipe.data.manifest, manifest).document
    settings = BatchSettings(
        recipe.data.target_length,
        position_method(recipe),
        recipe.data.document_mask,
        recipe.seed,
        manifest.ends_sentence(),
    )
    count = min(SAMPLES_MEASURED, plan.num_samples)
    for index in np.unique(np.linspace(0, plan.num_samples - 1, count).astype(np.int64)).tolist():
        spans = slice(plan.span_offsets[index], plan.span_offsets[index + 1])
        sample = Sample(index, plan.span_document[spans], plan.span_start[spans], plan.span_length[spans])
        batch = make_micro_batch([sample], read, settings)
        yield batch.positions, batch.cu_seqlens


def _plots(recipe: Recipe, description: dict[str, Any], samples: list[tuple[Any, Any]]) -> None:
    from longspan.observe.plots import length_mix, position_coverage

    target = recipe.data.target_length
    edges, shares = distance_histogram(measure_coverage(samples, target), min(_BINS, target))
    labels = [f"{bucket['from']:,}" for bucket in description["lengths"]]
    with tempfile.TemporaryDirectory() as directory:
        coverage, mix = Path(directory, "position_coverage.png"), Path(directory, "length_mix.png")
        position_coverage(edges.tolist(), shares.tolist(), target, coverage, "relative distance")
        before, after = (
            {name: bucket[side] for name, bucket in zip(labels, description["lengths"], strict=True)}
            for side in ("share_before", "share_after")
        )
        length_mix(before, after, mix)
        for path in (coverage, mix):
            storage.upload_file(str(path), storage.join(recipe.run_uri, "plots", path.name))
