"""One plain dictionary with everything to know about a recipe before it runs.

Takes the counts of the finished sample plan and some samples' positions; `render` makes tables of it, the plots draw
it, and it is JSON (RUN/plan.json) for whoever wants it as data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.config.recipe import Recipe
from longspan.planner.alerts import warnings_of
from longspan.planner.attention_window import attention_group, attention_length, widening
from longspan.planner.costs import (
    count_parameters,
    count_trained,
    flops_per_token,
    gpu_hours,
    memory_per_gpu,
    model_sizes,
)
from longspan.planner.data import LengthHistograms, all_lengths, mix_over_training, packing_figures, source_figures
from longspan.positions import distance_histogram, measure_coverage
from longspan.positions.methods import IntArray, PositionArray
from longspan.rope import RopeSettings, first_negative_distance, reader_notes, rotary_dim, theta_lower_bound
from longspan.sampling.statistics import PlanStatistics, figures

_DISTANCE_BINS = 64

Samples = Sequence[tuple[PositionArray, IntArray]]


def describe_plan(
    recipe: Recipe,
    statistics: PlanStatistics,
    documents_per_sample: NDArray[np.int64],
    tokens_per_sample: NDArray[np.int64],
    documents: LengthHistograms,
    config: Mapping[str, Any],
    rope: RopeSettings,
    samples: Iterable[tuple[PositionArray, IntArray]],
) -> dict[str, Any]:
    """What the recipe's plan holds, covers and costs.

    Args:
        statistics: of the whole plan (`sampling.statistics`).
        documents_per_sample: int64 [LENGTH_BUCKETS], sum of `data.documents_in_samples` over the plan's parts.
        tokens_per_sample: int64 [plan's sample length + 1], sum of `data.tokens_in_samples` over them.
        documents: `length_histogram` of the manifest's sources, by name.
        config: fields of the model's config.json.
        rope: the run's rotary settings.
        samples: (positions float32 [tokens], cu_seqlens) of some samples, as training will see them.

    Returns:
        JSON values under "run", "sources" (by name), "lengths" (list, by power-of-two bucket of document length), "mix"
        (list of bins of steps), "packing", "shuffle", "positions", "rope", "compute", "memory" (bytes, by part) and
        "warnings" (texts). Shares are fractions of 1. Where the recipe selects a part of each sample, "run" tells what
        is trained from what the plan reads; "sources", "lengths" and "packing" are about what is read.
    """
    sizes = model_sizes(config)
    counted, settings = figures(statistics), statistics.settings
    measured = list(samples)
    sources = source_figures(counted, settings, documents)
    description = {
        "run": _run(recipe, counted, tokens_per_sample, measured),
        "sources": sources,
        "lengths": all_lengths(sources),
        "mix": mix_over_training(counted, settings, list(sources)),
        "packing": packing_figures(counted, settings, documents_per_sample),
        "shuffle": {"is_on": settings.shuffle, "shuffle_tokens": settings.shuffle_tokens, **counted["shuffle"]},
        "positions": _positions(recipe, measured),
        "rope": {
            **_rope(rope, recipe.data.target_length, sizes.head_dim),
            "readers": list(reader_notes(rope, max(recipe.data.target_length, config["max_position_embeddings"]))),
        },
        "compute": _compute(recipe, config),
        "memory": _memory(recipe, config),
    }
    return {**description, "warnings": warnings_of(description)}


def _run(
    recipe: Recipe, counted: Mapping[str, Any], tokens_per_sample: NDArray[np.int64], samples: Samples
) -> dict[str, Any]:
    data, window = recipe.data, widening(recipe)
    # A selection keeps exactly so many of a sample, or all that it has.
    kept = np.minimum(np.arange(tokens_per_sample.size), data.sample_length)
    tokens, num_samples = int(kept @ tokens_per_sample), max(counted["samples"], 1)
    room = num_samples * data.sample_length
    # The stretch of text that a token finds itself in, on average: attention does not leave it.
    attended = counted["mean_attended_length"] if data.document_mask else tokens / num_samples
    if data.document_mask and data.selection:
        attended = _attended_length(samples)
    return {
        "name": recipe.name,
        "samples": counted["samples"],
        "steps": recipe.train.steps,
        "global_batch_size": recipe.train.global_batch_size,
        "sample_length": data.sample_length,
        "plan_length": data.plan_length,
        "target_length": data.target_length,
        "selection": data.selection.mode if data.selection else None,
        "tokens": tokens,
        "tokens_read": counted["tokens"],
        "share_kept": tokens / max(counted["tokens"], 1),
        "padding_share": (room - tokens) / room,
        "documents_per_sample": counted["spans_per_sample"],
        "mean_attended_length": attended,
        "attention_window": None if window is None else asdict(window),
        "attention_group": attention_group(recipe) or None,
    }


def _attended_length(samples: Samples) -> float:
    """Tokens of the document that a token stands in, mean over the tokens of the samples."""
    lengths = np.concatenate([np.diff(cu_seqlens) for _, cu_seqlens in samples]).astype(np.float64)
    return float((lengths**2).sum() / lengths.sum())


def _positions(recipe: Recipe, samples: Samples) -> dict[str, Any]:
    target = recipe.data.target_length
    coverage = measure_coverage(samples, target)
    edges, shares = distance_histogram(coverage, min(_DISTANCE_BINS, target))
    return {
        "type": recipe.positions.type,
        "interleave": recipe.data.interleave.method if recipe.data.interleave else None,
        "samples_measured": len(samples),
        "largest_position": coverage.largest_position,
        "share_of_window_reached": (coverage.largest_position + 1) / target,
        "mean_last_position": coverage.mean_last_position,
        "mean_token_distance": coverage.mean_token_distance,
        "mean_segment_length": coverage.mean_segment_length,
        "share_of_distances_seen": coverage.share_of_distances_seen,
        "distance_edges": edges.tolist(),
        "distance_shares": shares.tolist(),
    }


def _rope(rope: RopeSettings, target_length: int, head_dim: int) -> dict[str, Any]:
    # Both are about plain RoPE: scaled frequencies are no powers of a base. A single base below the bound can be good.
    is_plain, rotated = rope.rope_type == "default", rotary_dim(rope, head_dim)
    negative = first_negative_distance(rope.rope_theta, target_length, rotated) if is_plain else None
    return {
        "type": rope.rope_type,
        "theta": rope.rope_theta,
        "factor": rope.factor,
        "theta_lower_bound": theta_lower_bound(target_length, rotated) if is_plain else None,
        "first_negative_distance": negative,
        "is_theta_large_enough": negative is None if is_plain else None,
    }


def _compute(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = model_sizes(config)
    data, samples = recipe.data, recipe.num_samples
    per_token, full_per_token = (
        flops_per_token(sizes, n, recipe.model.lora) for n in (attention_length(recipe), data.target_length)
    )
    total, full = samples * data.sample_length * per_token, samples * data.target_length * full_per_token
    return {
        "parameters": count_parameters(sizes),
        "trained_parameters": count_trained(sizes, recipe.model.lora)[0],
        "flops_per_token": per_token,
        "total_flops": total,
        "gpu_hours_at_40_percent": gpu_hours(total),
        "full_length_tokens": samples * data.target_length,
        "full_length_flops_per_token": full_per_token,
        "full_length_flops": full,
        "full_length_gpu_hours_at_40_percent": gpu_hours(full),
        "share_saved": 1 - total / full,
    }


def _memory(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    parallel, train = recipe.parallel, recipe.train
    estimate = memory_per_gpu(
        model_sizes(config),
        dtype=recipe.model.dtype,
        zero_stage=train.zero_stage,
        world=parallel.num_workers,
        tokens_per_rank=train.micro_batch_size * recipe.data.sample_length // parallel.sequence_parallel,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        loss_chunk=train.loss_chunk,
        lora=recipe.model.lora,
    )
    return {**asdict(estimate), "total": estimate.total}
