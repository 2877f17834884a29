"""Which frequencies the positions meet: scaling formulas, base formulas, and the door to Hugging Face configs.

Pure numpy. Beside `positions` (which position a token gets); `model` sets and asserts what is computed here.
"""

from longspan.rope.frequencies import attention_scaling, inv_freq
from longspan.rope.huggingface import from_hf, hf_max_position_embeddings, legacy_keys, to_hf
from longspan.rope.settings import RopeSettings, RopeType, from_mapping, validate
from longspan.rope.theta import (
    critical_dimension,
    critical_dimension_theta,
    dynamic_ntk_theta,
    first_negative_distance,
    ntk_theta,
    theta_lower_bound,
)

__all__ = [
    "RopeSettings",
    "RopeType",
    "attention_scaling",
    "critical_dimension",
    "critical_dimension_theta",
    "dynamic_ntk_theta",
    "first_negative_distance",
    "from_hf",
    "from_mapping",
    "hf_max_position_embeddings",
    "inv_freq",
    "legacy_keys",
    "ntk_theta",
    "theta_lower_bound",
    "to_hf",
    "validate",
]
