"""Errors of the papers and of their released code that concern RoPE, each pinned by what is done here instead."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from longspan.config.model import Rope
from longspan.rope import (
    RopeSettings,
    config_keys,
    dynamic_ntk_theta,
    e2_inference,
    from_hf,
    inv_freq,
)
from longspan.rope.resolve import resolve_rope


def released_config(model_type: str, rope: Rope, target: int) -> dict:
    """config.json of a Qwen2-like base (32k, base 1e6), as an export writes it."""
    settings = resolve_rope(RopeSettings("default", 1e6), rope, 16, 32_768, target)
    return {
        "model_type": model_type,
        "vocab_size": 16,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        **config_keys(settings, target),
    }


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@pytest.mark.parametrize("rope_type", ["dynamic_ntk", "yarn", "linear"])
def test_no_config_is_edited_by_hand(model_type: str, rope_type: str, tmp_path: Path) -> None:
    """LongRecipe's train.py never sets the base, and its Qwen2-128k says max_position_embeddings 32768."""
    rope = Rope.model_validate({"type": rope_type})
    config = released_config(model_type, rope, 131_072)
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.max_position_embeddings == 131_072
    found = AutoModelForCausalLM.from_config(loaded).model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(found, inv_freq(from_hf(config), 16), rtol=5e-7)
    assert not np.allclose(found, inv_freq(RopeSettings("default", 1e6), 16))


def test_static_and_dynamic_ntk_have_two_names() -> None:
    """Table 4's "Dynamic NTK" bases are 16 times those of static NTK; a recipe says which it means."""
    static, dynamic = (
        resolve_rope(RopeSettings("default", 5e5), Rope.model_validate({"type": name}), 128, 8192, 131_072).rope_theta
        for name in ("ntk", "dynamic_ntk")
    )
    assert static == pytest.approx(8.36e6, rel=2e-3)
    assert dynamic == pytest.approx(131.46e6, rel=1e-3)


def test_80k_is_81920_for_the_published_base_and_not_the_80000_of_the_positions() -> None:
    assert dynamic_ntk_theta(5e5, 10, 81_920, 8192, 128) == pytest.approx(48.88e6, rel=1e-3)
    assert dynamic_ntk_theta(5e5, 10, 80_000, 8192, 128) == pytest.approx(47.6e6, rel=1e-3)


def test_qwen2s_80k_base_is_that_of_its_128k_window() -> None:
    """Table 4 has 13.5M for both; the formula at 80k gives half of it."""
    assert dynamic_ntk_theta(1e6, 4, 131_072, 32_768, 128) == pytest.approx(13.54e6, rel=1e-3)
    assert dynamic_ntk_theta(1e6, 4, 81_920, 32_768, 128) == pytest.approx(7.22e6, rel=1e-3)


def test_two_bases_are_two_settings() -> None:
    """LongRecipe's merge averages weights of two bases and keeps one without a word; `merge` compares these."""
    base, extended = ({"rope_theta": theta, "rope_scaling": None} for theta in (5e5, 48.88e6))
    assert from_hf(base) != from_hf(extended)


def test_e2llms_offset_is_added_before_the_division_by_the_scale() -> None:
    """Eq. 5: (m + t) / g. The exported frequencies know g only, so any offset must be in the positions."""
    inference = e2_inference(RopeSettings("default", 1e4), 4, 4096, 128)
    position, offset = 100, 12_000
    angles = (position + offset) / 4 * inv_freq(RopeSettings("default", 1e4), 128)
    np.testing.assert_allclose((position + offset) * inv_freq(inference, 128), angles, rtol=5e-7)
