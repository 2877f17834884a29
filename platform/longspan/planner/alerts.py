"""What in a plan's description deserves a second look before anything is spent, each as one line with its mend."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_PADDING = 0.01
MOST_EPOCHS = 4.0
"""Up to four passes over the same text are about as good as new text (Muennighoff et al., arXiv 2305.16264)."""


def warnings_of(description: Mapping[str, Any]) -> list[str]:
    """Warnings about padding, repetition and the RoPE base; empty where there is none."""
    return [*_padding(description), *_repetition(description), *_base(description)]


def _padding(description: Mapping[str, Any]) -> Iterator[str]:
    share = description["run"]["padding_share"]
    if share > MOST_PADDING:
        yield (
            f"padding: {share:.1%} of the tokens are padding, and cost as much as text; data.packing: sequential has"
            f" none, or another data.sample_length than {description['run']['sample_length']:,} may fit the documents"
            " better"
        )


def _repetition(description: Mapping[str, Any]) -> Iterator[str]:
    for name, source in description["sources"].items():
        if source["epochs"] > MOST_EPOCHS:
            yield (
                f"repetition: {name} is read {source['epochs']:.1f} times; beyond four epochs text teaches less and"
                f" less; lower its weight, or limit it with data.repetition.by_source.{name}"
            )


def _base(description: Mapping[str, Any]) -> Iterator[str]:
    rope, target = description["rope"], description["run"]["target_length"]
    if rope["is_theta_large_enough"] is False:
        yield (
            f"rope: with theta {rope['theta']:,.0f} a token {rope['first_negative_distance']:,} tokens back scores"
            f" below a random one on average, inside the target window of {target:,}; use"
            f" {rope['theta_lower_bound']:,.0f} or more"
        )
