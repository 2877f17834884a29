"""Whether the runs bear a claim out: verdicts from paired differences, the same rule for every claim. Pure."""

from collections.abc import Mapping
from typing import Any

from longspan.compare.results import MethodResult, metric_key
from longspan.compare.statistics import Difference, paired_difference
from longspan.config.compare import LOSSES, Claim

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided at this number of seeds"


def judge(claim: Claim, results: Mapping[str, MethodResult], lengths: list[int]) -> dict[str, Any]:
    """The claim with its verdict, as JSON-able values.

    With `points` p, and d the method's advantage (in points, positive is better) with its 95 % interval: `within` holds
    where the whole interval is at or above -p and fails where it is below; `above` holds where it is above p and fails
    where it is at or below. A share of compute above `at_most_compute` fails the claim whatever the scores are.

    Returns:
        the claim's fields, `verdict`, `difference`, `low`, `high` (points; None where unknown), `pairs` and
        `compute_share` (None where the other spent nothing).
    """
    ours, theirs = results[claim.method], results[claim.against]
    key = metric_key(claim.metric, claim.length or max(lengths))
    difference = None
    if key in ours.metrics and key in theirs.metrics:
        sign = -100.0 if claim.metric in LOSSES else 100.0
        difference = paired_difference(_scaled(ours.metrics[key], sign), _scaled(theirs.metrics[key], sign))
    share = ours.flops / theirs.flops if theirs.flops else None
    return {
        **claim.model_dump(mode="json"),
        "length": None if claim.metric in LOSSES else claim.length or max(lengths),
        "verdict": verdict(claim, difference, share),
        "difference": difference.mean if difference else None,
        "low": difference.low if difference else None,
        "high": difference.high if difference else None,
        "pairs": difference.pairs if difference else 0,
        "compute_share": share,
    }


def verdict(claim: Claim, difference: Difference | None, compute_share: float | None) -> str:
    """HOLDS, FAILS or OPEN; see `judge`."""
    limit = claim.at_most_compute
    if limit is not None and compute_share is not None and compute_share > limit:
        return FAILS
    if difference is None or difference.low is None or difference.high is None:
        return OPEN
    if claim.relation == "within":
        return HOLDS if difference.low >= -claim.points else FAILS if difference.high < -claim.points else OPEN
    return HOLDS if difference.low > claim.points else FAILS if difference.high <= claim.points else OPEN


def _scaled(values: Mapping[int | None, float], factor: float) -> dict[int | None, float]:
    return {seed: factor * value for seed, value in values.items()}
