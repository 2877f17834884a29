"""What a plan takes from its corpus, in the form that people read: sources, document lengths, the mix over the run.

Turns the counts of `sampling.statistics.figures` into the parts of `describe`'s dictionary that are about data.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.sampling.plan import PlanPart, PlanSettings
from longspan.sampling.statistics import LENGTH_BUCKETS, length_bucket

LengthHistograms = Mapping[str, Mapping[int, int]]
"""Documents of each source by the power of two at or below their length, as the manifest has them."""


def documents_in_samples(part: PlanPart) -> NDArray[np.int64]:
    """int64 [LENGTH_BUCKETS], samples of the part by the power of two at or below their number of documents."""
    return np.bincount(length_bucket(np.diff(part.span_offsets)), minlength=LENGTH_BUCKETS).astype(np.int64)


def tokens_in_samples(part: PlanPart, sample_length: int) -> NDArray[np.int64]:
    """int64 [sample_length + 1], samples of the part by their tokens."""
    tokens = np.add.reduceat(part.length.astype(np.int64), part.span_offsets[:-1])
    return np.bincount(tokens, minlength=sample_length + 1).astype(np.int64)


def source_figures(figures: Mapping[str, Any], settings: PlanSettings, documents: LengthHistograms) -> dict[str, Any]:
    """By name of every source that the mix or the plan uses: counts, shares, epochs, upsampling, lengths."""
    result = {}
    for name, found in figures["sources"].items():
        if not (found["samples"] or found["asked_share"]):
            continue
        upsample = settings.upsample.get(name)
        copies = 0.0 if upsample is None else (upsample.ratio - 1) * found["corpus_long_tokens"]
        result[name] = {
            "documents": sum(documents[name].values()),
            "tokens": found["corpus_tokens"],
            "samples": found["samples"],
            "tokens_drawn": found["tokens"],
            "share_asked": found["asked_share"],
            "share_achieved": found["share_of_tokens"],
            "share_of_samples": found["share_of_samples"],
            # As the limit counts them: an epoch is every document once, and its copies by upsampling.
            "epochs": found["tokens"] / max(found["corpus_tokens"] + copies, 1.0),
            "max_epochs": settings.max_epochs.get(name),
            "upsample_threshold": None if upsample is None else upsample.threshold,
            "upsample_asked": None if upsample is None else upsample.ratio,
            "upsample_achieved": None if upsample is None else _upsampled(found),
            "lengths": _lengths(found, documents[name]),
        }
    return result


def all_lengths(sources: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The buckets of all sources together; before: as if no document were upsampled, with the same mix of sources."""
    total = max(sum(source["tokens_drawn"] for source in sources.values()), 1)
    merged: dict[int, dict[str, Any]] = {}
    for source in sources.values():
        for bucket in source["lengths"]:
            own = merged.setdefault(bucket["from"], _empty(bucket["from"]))
            for key in ("documents", "tokens", "tokens_drawn"):
                own[key] += bucket[key]
            own["share_before"] += bucket["share_before"] * source["tokens_drawn"] / total
            own["share_after"] += bucket["tokens_drawn"] / total
    for bucket in merged.values():
        bucket["times_drawn"] = bucket["tokens_drawn"] / max(bucket["tokens"], 1)
    return [merged.get(begin, _empty(begin)) for begin in _buckets(merged)]


def mix_over_training(figures: Mapping[str, Any], settings: PlanSettings, names: list[str]) -> list[dict[str, Any]]:
    """Bins of whole optimizer steps, in order: each source's share of the trained tokens, as asked and as achieved."""
    found = figures["mix_over_time"]
    borders = [*found["first_step"], settings.steps]
    return [
        {
            "from_step": begin,
            "below_step": end,
            **{side: {name: found[side][name][number] for name in names} for side in ("asked", "achieved")},
        }
        for number, (begin, end) in enumerate(pairwise(borders))
    ]


def packing_figures(
    figures: Mapping[str, Any], settings: PlanSettings, documents_per_sample: NDArray[np.int64]
) -> dict[str, Any]:
    """How full the samples are, and of how many documents they are made."""
    filled = np.flatnonzero(documents_per_sample)
    return {
        "type": settings.packing,
        "padding_tokens": figures["padding_tokens"],
        "padding_share": figures["padding_share"],
        "documents_per_sample": figures["spans_per_sample"],
        "mean_attended_length": figures["mean_attended_length"],
        "documents_histogram": [
            {"from": 1 << int(b), "below": 2 << int(b), "samples": int(documents_per_sample[b])}
            for b in range(int(filled[0]), int(filled[-1]) + 1)
        ],
    }


def _lengths(found: Mapping[str, Any], documents: Mapping[int, int]) -> list[dict[str, Any]]:
    before, after = found["corpus_tokens_by_length"], found["tokens_by_length"]
    result = []
    for begin in _buckets(int(key) for key in before):
        bucket = _empty(begin)
        bucket["documents"] = documents.get(begin, 0)
        bucket["tokens"], bucket["tokens_drawn"] = before.get(str(begin), 0), after.get(str(begin), 0)
        bucket["share_before"] = bucket["tokens"] / max(found["corpus_tokens"], 1)
        bucket["share_after"] = bucket["tokens_drawn"] / max(found["tokens"], 1)
        bucket["times_drawn"] = bucket["tokens_drawn"] / max(bucket["tokens"], 1)
        result.append(bucket)
    return result


def _buckets(begins: Iterable[int]) -> list[int]:
    """Every power of two from the first to the last, so that lengths without documents show as a gap."""
    known = set(begins)
    return [1 << power for power in range(min(known).bit_length() - 1, max(known).bit_length())] if known else []


def _empty(begin: int) -> dict[str, Any]:
    counts = dict.fromkeys(("documents", "tokens", "tokens_drawn"), 0)
    return {"from": begin, "below": 2 * begin, **counts, "share_before": 0.0, "share_after": 0.0, "times_drawn": 0.0}


def _upsampled(found: Mapping[str, Any]) -> float | None:
    """How many times as often a token of a long document is drawn as one of a short; None without both kinds."""
    long, corpus_long = found["long_tokens"], found["corpus_long_tokens"]
    short, corpus_short = found["tokens"] - long, found["corpus_tokens"] - corpus_long
    if not corpus_long or not short:
        return None
    return float(long / corpus_long / (short / corpus_short))
