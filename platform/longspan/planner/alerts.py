"""What in a plan's description deserves a second look before anything is spent, each as one line with its mend."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_PADDING = 0.01
MOST_EPOCHS = 4.0
"""Up to four passes over the same text are about as good as new text (Muennighoff et al., arXiv 2305.16264)."""
FEWEST_TO_MIX = 2.0


def warnings_of(description: Mapping[str, Any]) -> list[str]:
    """Warnings about padding, repetition, RoPE base, interleaving and attention window; empty where there is none."""
    found = (_padding, _repetition, _base, _interleaving, _window)
    return [warning for look in found for warning in look(description)]


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


def _interleaving(description: Mapping[str, Any]) -> Iterator[str]:
    documents = description["run"]["documents_per_sample"]
    if description["positions"]["interleave"] and documents < FEWEST_TO_MIX:
        yield (
            f"interleave: a sample holds {documents:.1f} documents on average, so there is little to mix; use shorter"
            " documents or a larger data.sample_length"
        )


def _window(description: Mapping[str, Any]) -> Iterator[str]:
    window = description["run"]["attention_window"]
    if window is not None and window["reached_at_step"] is None:
        yield (
            f"attention window: the run ends with blocks of {window['last']:,} tokens, and never trains the"
            f" {window['end']:,} that they should grow to; raise data.attention_window.rate"
        )
