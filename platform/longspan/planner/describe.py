"""One plain dictionary with everything to know about a recipe before it runs.

Takes the finished sample plan, the corpus's lengths and some samples' positions; `render` makes tables of it, and it is
JSON for whoever wants it as data.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.config.recipe import Recipe
from longspan.planner.costs import count_parameters, flops_per_token, gpu_hours, memory_per_gpu, model_sizes
from longspan.positions import measure_coverage
from longspan.positions.methods import IntArray, PositionArray
from longspan.rope import RopeSettings, first_negative_distance, theta_lower_bound
from longspan.sampling.plan import Plan


def describe_plan(
    recipe: Recipe,
    plan: Plan,
    source_id: NDArray[np.int16],
    length: NDArray[np.int32],
    config: Mapping[str, Any],
    rope: RopeSettings,
    samples: Iterable[tuple[PositionArray, IntArray]],
) -> dict[str, Any]:
    """What the recipe's plan holds, covers and costs.

    Args:
        plan: of `sampling.build_plan` for this recipe.
        source_id: int16 [num_documents] of the corpus's index.
        length: int32 [num_documents] of the corpus's index.
        config: fields of the model's config.json.
        rope: the run's rotary settings.
        samples: (positions float32 [sample_length], cu_seqlens) of some samples, as training will see them.

    Returns:
        JSON values under "run", "sources" (by name), "lengths" (list, by power-of-two bucket of document length),
        "positions", "rope", "compute" and "memory" (bytes, by part). Shares are fractions of 1.
    """
    sizes = model_sizes(config)
    used = np.flatnonzero(np.bincount(plan.source, minlength=len(plan.source_names)))
    return {
        "run": _run(recipe, plan),
        "sources": {
            plan.source_names[number]: _source(recipe, plan, int(number), source_id, length) for number in used
        },
        "lengths": _lengths(plan, source_id, length),
        "positions": _positions(recipe, samples),
        "rope": _rope(rope, recipe.data.target_length, sizes.head_dim),
        "compute": _compute(recipe, config),
        "memory": _memory(recipe, config),
    }


def _run(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    spans = plan.span_length.astype(np.float64)
    seen = float((spans**2).sum() / spans.sum()) if recipe.data.document_mask else float(plan.sample_length)
    return {
        "name": recipe.name,
        "samples": plan.num_samples,
        "steps": recipe.train.steps,
        "global_batch_size": recipe.train.global_batch_size,
        "sample_length": plan.sample_length,
        "target_length": recipe.data.target_length,
        "tokens": plan.num_samples * plan.sample_length,
        "documents_per_sample": plan.span_length.size / plan.num_samples,
        # The stretch of text that a token finds itself in, on average over tokens: attention does not leave it.
        "mean_attended_length": seen,
    }


def _source(
    recipe: Recipe, plan: Plan, number: int, source_id: NDArray[np.int16], length: NDArray[np.int32]
) -> dict[str, Any]:
    own = source_id == number
    samples = int((plan.source == number).sum())
    drawn = samples * plan.sample_length
    upsample = recipe.data.upsample
    copies = np.ones(length.size)
    if upsample is not None:
        copies[length >= upsample.threshold] = upsample.ratio
    return {
        "documents": int(own.sum()),
        "tokens": int(length[own].sum(dtype=np.int64)),
        "samples": samples,
        "tokens_drawn": drawn,
        "share_asked": _share_asked(recipe, plan, plan.source_names[number]),
        "share_achieved": samples / plan.num_samples,
        "epochs": drawn / float((copies * length)[own].sum()),
        "upsample_achieved": None if upsample is None else _upsampled(plan, own, length, upsample.threshold),
    }


def _share_asked(recipe: Recipe, plan: Plan, name: str) -> float:
    """Share of the run's samples that the mix asks of a source, over all phases."""
    borders = [*(phase.from_step for phase in recipe.data.mix), recipe.train.steps]
    return sum(
        phase.weights.get(name, 0.0) / sum(phase.weights.values()) * (end - begin) / recipe.train.steps
        for phase, begin, end in zip(recipe.data.mix, borders, borders[1:], strict=False)
    )


def _drawn(plan: Plan, num_documents: int) -> NDArray[np.float64]:
    """Tokens that the plan takes of each document, float64 [num_documents]."""
    tokens = np.bincount(plan.span_document, weights=plan.span_length, minlength=num_documents)
    return tokens.astype(np.float64)


def _upsampled(plan: Plan, own: NDArray[np.bool_], length: NDArray[np.int32], threshold: int) -> float | None:
    """How many times as often a token of a long document is drawn as one of a short; None without both kinds."""
    drawn, is_long = _drawn(plan, length.size), length >= threshold
    totals = [(drawn[own & chosen].sum(), length[own & chosen].sum(dtype=np.int64)) for chosen in (is_long, ~is_long)]
    if totals[0][1] == 0 or totals[1][1] == 0 or totals[1][0] == 0:
        return None
    return float(totals[0][0] / totals[0][1] / (totals[1][0] / totals[1][1]))


def _lengths(plan: Plan, source_id: NDArray[np.int16], length: NDArray[np.int32]) -> list[dict[str, Any]]:
    """Share of the tokens by length of their document: before upsampling (same mix of sources), and as planned."""
    achieved = np.bincount(plan.source, minlength=len(plan.source_names)) / plan.num_samples
    tokens = np.bincount(source_id, weights=length, minlength=len(plan.source_names))
    before = (achieved / np.maximum(tokens, 1))[source_id] * length
    after = _drawn(plan, length.size) / (plan.num_samples * plan.sample_length)
    used = np.flatnonzero(length > 0)
    exponent = np.frexp(length[used])[1] - 1
    sums = [np.bincount(exponent, weights=share[used]) for share in (before, after)]
    documents = np.bincount(exponent)
    return [
        {
            "from": 1 << int(e),
            "below": 2 << int(e),
            "documents": int(documents[e]),
            "share_before": float(sums[0][e]),
            "share_after": float(sums[1][e]),
        }
        for e in np.flatnonzero(documents)
    ]


def _positions(recipe: Recipe, samples: Iterable[tuple[PositionArray, IntArray]]) -> dict[str, Any]:
    kept = list(samples)
    target = recipe.data.target_length
    coverage = measure_coverage(kept, target)
    return {
        "type": recipe.positions.type,
        "samples_measured": len(kept),
        "largest_position": coverage.largest_position,
        "share_of_window_reached": (coverage.largest_position + 1) / target,
        "mean_last_position": coverage.mean_last_position,
        "mean_token_distance": coverage.mean_token_distance,
        "mean_segment_length": coverage.mean_segment_length,
        "share_of_distances_seen": coverage.share_of_distances_seen,
    }


def _rope(rope: RopeSettings, target_length: int, head_dim: int) -> dict[str, Any]:
    # Both are about plain RoPE: scaled frequencies are no powers of a base. A single base below the bound can be good.
    is_plain = rope.rope_type == "default"
    negative = first_negative_distance(rope.rope_theta, target_length, head_dim) if is_plain else None
    return {
        "type": rope.rope_type,
        "theta": rope.rope_theta,
        "factor": rope.factor,
        "theta_lower_bound": theta_lower_bound(target_length, head_dim) if is_plain else None,
        "first_negative_distance": negative,
        "is_theta_large_enough": negative is None if is_plain else None,
    }


def _compute(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = model_sizes(config)
    data, samples = recipe.data, recipe.num_samples
    per_token, full_per_token = (flops_per_token(sizes, n) for n in (data.sample_length, data.target_length))
    total, full = samples * data.sample_length * per_token, samples * data.target_length * full_per_token
    return {
        "parameters": count_parameters(sizes),
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
    )
    return {**asdict(estimate), "total": estimate.total}
