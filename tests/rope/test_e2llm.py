"""E2-LLM at inference: the paper's scales, and configs whose angles are those of scaled positions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longspan.errors import ConfigError
from longspan.rope import (
    RopeSettings,
    attention_scaling,
    depends_on_length,
    e2_inference,
    e2_other_scale,
    e2_scale,
    interpolated,
    inv_freq,
    longrope_settings,
    to_hf,
)

PLAIN = RopeSettings("default", 1e4)
LLAMA3 = RopeSettings(
    "llama3", 5e5, factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
)
YARN = RopeSettings("yarn", 1e4, factor=4.0, original_max_position_embeddings=2048)
BASES = [
    PLAIN,
    RopeSettings("default", 1e4, partial_rotary_factor=0.5),
    RopeSettings("linear", 1e4, factor=2.0),
    YARN,
    LLAMA3,
    longrope_settings(PLAIN, 16_384, 4096, 64),
]


@pytest.mark.parametrize(
    ("window", "scale"), [(8192, 2), (16_384, 4), (32_768, 8), (65_536, 16), (81_920, 20), (4096, 1), (1, 1), (4097, 2)]
)
def test_scales_of_the_paper(window: int, scale: int) -> None:
    """Llama-2, 4k: g = 2, 4, 8, 16, 20 for 8k, 16k, 32k, 64k, 80k."""
    assert e2_scale(window, 4096) == scale


def test_plain_rope_exports_as_linear_with_the_scale_as_factor() -> None:
    assert to_hf(e2_inference(PLAIN, 8, 4096, 64)) == {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0}
    assert e2_inference(BASES[2], 8, 4096, 64) == RopeSettings("linear", 1e4, factor=16.0)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.rope_type)
@pytest.mark.parametrize(("was", "scale"), [(8, 8), (8, 1), (1, 20), (3, 7), (2.5, 50)])
def test_another_scale_is_what_the_base_makes_of_it(base: RopeSettings, was: float, scale: float) -> None:
    found = e2_other_scale(e2_inference(base, was, 4096, 64), was, scale, 4096, 64)
    expected = e2_inference(base, scale, 4096, 64)
    np.testing.assert_allclose(inv_freq(found, 64), inv_freq(expected, 64), rtol=1e-6)
    assert attention_scaling(found) == attention_scaling(expected)
    if expected.rope_type == "linear":
        assert found == expected
    else:
        assert (found.factor, found.original_max_position_embeddings) == (scale, 4096)
    with pytest.raises(ConfigError, match=r"rope.factor is 0.5 as a scale"):
        e2_other_scale(expected, scale, 0.5, 4096, 64)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.rope_type)
@pytest.mark.parametrize("scale", [1, 2, 2.5, 20, 50])
def test_whole_positions_meet_the_angles_of_scaled_ones(base: RopeSettings, scale: float) -> None:
    inference = e2_inference(base, scale, 4096, 64)
    positions = np.arange(0, 81_920, 997)
    # A longrope base was trained with its long factors.
    trained = inv_freq(base, 64, sequence_length=10**6).astype(np.float64)
    found = inv_freq(inference, 64).astype(np.float64)
    np.testing.assert_allclose(np.outer(positions, found), np.outer(positions / scale, trained), rtol=5e-7)
    assert attention_scaling(inference) == attention_scaling(base)
    assert not depends_on_length(inference)


@pytest.mark.parametrize("base", [PLAIN, *BASES[2:]], ids=lambda base: base.rope_type)
def test_transformers_reads_the_export_the_same_way(base: RopeSettings) -> None:
    inference = e2_inference(base, 4, 4096, 64)
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=32_768, rope_parameters=to_hf(inference)
    )
    reference = LlamaRotaryEmbedding(config)
    np.testing.assert_allclose(inv_freq(inference, 64), reference.inv_freq.numpy(), rtol=5e-7)
    assert reference.attention_scaling == attention_scaling(base)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("factor", [None, 20.0])
def test_a_scale_takes_the_place_of_the_one_in_a_checkpoint(factor: float | None, share: float) -> None:
    plain = RopeSettings("default", 1e4, partial_rotary_factor=share)
    own = RopeSettings("linear" if factor else "default", 1e4, factor=factor, partial_rotary_factor=share)
    assert interpolated(own, 1) == plain
    assert interpolated(own, 8) == e2_inference(plain, 8, 4096, 64)
    with pytest.raises(ConfigError, match=r"rope\.factor is 0\.5"):
        interpolated(own, 0.5)


@pytest.mark.parametrize("own", BASES[3:], ids=lambda own: own.rope_type)
def test_other_types_have_no_scale_to_choose(own: RopeSettings) -> None:
    with pytest.raises(ConfigError, match=f"'{own.rope_type}' has no scale to choose"):
        interpolated(own, 2)


@given(length=st.integers(1, 10**6), original=st.integers(1, 10**5))
def test_scaled_positions_stay_inside_the_original_window(length: int, original: int) -> None:
    scale = e2_scale(length, original)
    assert (length - 1) / scale < original
    assert scale == 1 or (length - 1) / (scale - 1) >= original


@pytest.mark.parametrize(
    ("base", "scale", "message"),
    [
        (PLAIN, 0.5, r"rope\.factor is 0\.5 as a scale of E2-LLM"),
        (PLAIN, float("nan"), r"rope\.factor is nan"),
        (
            RopeSettings("dynamic", 1e4, factor=2.0, original_max_position_embeddings=4096),
            2,
            r"rope\.type: 'e2llm' .* by 'dynamic', .*; extend it with type 'dynamic_ntk' and rope\.drop_scaling: true",
        ),
    ],
)
def test_refuses_what_has_no_fixed_scale(base: RopeSettings, scale: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        e2_inference(base, scale, 4096, 64)
    with pytest.raises(ConfigError, match="1 token or more, got 0"):
        e2_scale(0, 4096)
