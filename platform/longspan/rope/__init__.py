"""Which frequencies the positions meet: scaling formulas, base formulas, and the door to Hugging Face configs.

Pure numpy. Beside `positions` (which position a token gets); `model` sets and asserts what is computed here.
"""

from longspan.rope.e2llm import e2_inference, e2_other_scale, e2_scale, interpolated
from longspan.rope.frequencies import attention_scaling, inv_freq
from longspan.rope.huggingface import ROPE_KEYS, config_keys, from_hf, hf_max_position_embeddings, to_hf
from longspan.rope.longrope import (
    at_length,
    critical_dimension_factors,
    depends_on_length,
    frequencies_as_longrope,
    longrope_settings,
)
from longspan.rope.mixed_window import (
    MixedWindow,
    document_frequencies,
    mixed_window_longrope,
    uses_original,
    window_frequencies,
)
from longspan.rope.readers import reader_notes
from longspan.rope.settings import RopeSettings, RopeType, from_mapping, rotary_dim, validate
from longspan.rope.theta import (
    critical_dimension,
    critical_dimension_theta,
    dynamic_ntk_theta,
    first_negative_distance,
    ntk_theta,
    theta_lower_bound,
    theta_warning,
)

__all__ = [
    "ROPE_KEYS",
    "MixedWindow",
    "RopeSettings",
    "RopeType",
    "at_length",
    "attention_scaling",
    "config_keys",
    "critical_dimension",
    "critical_dimension_factors",
    "critical_dimension_theta",
    "depends_on_length",
    "document_frequencies",
    "dynamic_ntk_theta",
    "e2_inference",
    "e2_other_scale",
    "e2_scale",
    "first_negative_distance",
    "frequencies_as_longrope",
    "from_hf",
    "from_mapping",
    "hf_max_position_embeddings",
    "interpolated",
    "inv_freq",
    "longrope_settings",
    "mixed_window_longrope",
    "ntk_theta",
    "reader_notes",
    "rotary_dim",
    "theta_lower_bound",
    "theta_warning",
    "to_hf",
    "uses_original",
    "validate",
    "window_frequencies",
]
