"""LongRoPE2's mixed-window training: which documents keep the original RoPE and which get the extended one.

Pure part of arXiv 2502.20082: documents within the original window are trained with the original
frequencies (and a document mask), longer ones with the extended frequencies. `model` turns queries and keys with them;
`export` writes `mixed_window_longrope`, which makes the same choice at inference.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longspan.errors import ConfigError, DataError
from longspan.rope.frequencies import FloatArray, attention_scaling, inv_freq
from longspan.rope.longrope import frequencies_as_longrope
from longspan.rope.settings import RopeSettings

IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MixedWindow:
    """Two RoPEs of one model and the length that divides them.

    Attributes:
        original: settings of the base model, for documents of at most `original_window` tokens.
        extended: settings of the run, for longer ones; at `target_length` where they depend on the length.
        original_window: tokens.
        target_length: tokens, above `original_window`.

    Raises:
        ConfigError: from the constructor: windows in the wrong order, another share of rotated dimensions, or settings
            that are the same on both sides.
    """

    original: RopeSettings
    extended: RopeSettings
    original_window: int
    target_length: int

    def __post_init__(self) -> None:
        if not 0 < self.original_window < self.target_length:
            raise ConfigError(
                f"rope.original_max_position_embeddings is {self.original_window}; mixed windows need one above 0 and "
                f"below the target length of {self.target_length}"
            )
        if self.original.partial_rotary_factor != self.extended.partial_rotary_factor:
            raise ConfigError(
                f"rope.partial_rotary_factor is {self.original.partial_rotary_factor} in the original settings and "
                f"{self.extended.partial_rotary_factor} in the extended ones; mixed windows need one share"
            )
        if self.original == self.extended:
            raise ConfigError(
                "rope.type: mixed windows with the same RoPE for short and long documents mix nothing; choose a type "
                "that extends the model, or turn them off"
            )


def uses_original(mixed: MixedWindow, spans: IntArray) -> BoolArray:
    """Which documents keep the original RoPE: those whose span is within the original window.

    Args:
        mixed: the two settings.
        spans: [num_documents] tokens that a document spans: its length, or its last position + 1 where positions skip.

    Returns:
        bool [num_documents].

    Raises:
        DataError: a span below 1 or above the target length.
    """
    outside = (spans < 1) | (spans > mixed.target_length)
    if outside.any():
        index = int(np.argmax(outside))
        raise DataError(
            f"document {index} of the sample spans {int(spans[index])} tokens; mixed windows take 1 to "
            f"{mixed.target_length}"
        )
    return np.asarray(spans <= mixed.original_window)


def document_frequencies(mixed: MixedWindow, spans: IntArray, head_dim: int) -> tuple[FloatArray, FloatArray]:
    """What each document's positions meet.

    Args:
        mixed: the two settings.
        spans: as in `uses_original`.
        head_dim: dimensions of a head.

    Returns:
        (float32 [num_documents, rotary_dim // 2] inverse frequencies, float32 [num_documents] attention scaling).
    """
    keeps = uses_original(mixed, spans)
    short, long = window_frequencies(mixed, head_dim)
    scalings = (np.float32(attention_scaling(settings)) for settings in (mixed.original, mixed.extended))
    return np.where(keeps[:, None], short, long), np.where(keeps, *scalings)


def window_frequencies(mixed: MixedWindow, head_dim: int) -> tuple[FloatArray, FloatArray]:
    """The two sets of inverse frequencies, original and extended, float32 [rotary_dim // 2] each."""
    return (
        inv_freq(mixed.original, head_dim, sequence_length=mixed.original_window),
        inv_freq(mixed.extended, head_dim, sequence_length=mixed.target_length),
    )


def mixed_window_longrope(mixed: MixedWindow, head_dim: int) -> RopeSettings:
    """The "longrope" that chooses as training did: short_factor the original RoPE, long_factor the extended one.

    transformers and vLLM choose by the length of the request, and scale cos and sin alike on both sides.

    Raises:
        ConfigError: the two settings scale attention differently, which no config can say.
    """
    short, long = window_frequencies(mixed, head_dim)
    scaling, extended_scaling = attention_scaling(mixed.original), attention_scaling(mixed.extended)
    if scaling != extended_scaling:
        raise ConfigError(
            f"rope.mixed_window: cos and sin are scaled by {extended_scaling:.6g} for long documents and {scaling:.6g}"
            " for short ones, but a config has one number for both; with type yarn or longrope set"
            f" rope.attention_factor: {scaling!r}, else turn mixed_window off"
        )
    return frequencies_as_longrope(
        short,
        long,
        mixed.original.rope_theta,
        mixed.target_length / mixed.original_window,
        mixed.original_window,
        scaling,
        mixed.original.partial_rotary_factor,
    )
