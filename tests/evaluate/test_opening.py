"""Opening: RoPE put over a checkpoint's own takes hold and is proven, and lengths beyond the window are no matter."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from longspan.errors import ConfigError
from longspan.evaluate.grid import hidden_states
from longspan.evaluate.opening import open_for_evaluation, resolve_device
from longspan.model.load import assert_rope, set_rope
from longspan.rope import RopeSettings, attention_scaling, inv_freq, ntk_theta
from tests.tiny import FAMILIES, tiny_model_directory

OVERRIDES = {
    "theta": RopeSettings("default", 4596.0),
    "ntk": RopeSettings("default", ntk_theta(500.0, 8.0, 8)),
    "linear": RopeSettings("linear", 500.0, factor=8.0),
    "yarn": RopeSettings("yarn", 500.0, factor=8.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0),
    "dynamic": RopeSettings("dynamic", 500.0, factor=8.0, original_max_position_embeddings=32),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_directory(tmp_path_factory.mktemp("opening") / "base"))


def frequencies(model: Any) -> Any:
    return model.model.rotary_emb.inv_freq


@pytest.mark.parametrize("family", FAMILIES)
def test_opens_every_family_with_its_own_rope(tmp_path: Path, family: str) -> None:
    model, settings = open_for_evaluation(str(tiny_model_directory(tmp_path / family, family)), dtype="float32")
    assert settings == RopeSettings("default", 500.0)
    assert not model.training
    assert model.config._attn_implementation == "longspan"
    assert frequencies(model).numpy() == pytest.approx(inv_freq(settings, 8), rel=1e-6)


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_override_takes_hold_and_changes_the_answers(base: str, name: str) -> None:
    rope = OVERRIDES[name]
    model, settings = open_for_evaluation(base, rope=rope, dtype="float32")
    plain, _ = open_for_evaluation(base, dtype="float32")
    assert settings == rope
    assert frequencies(model).numpy() == pytest.approx(inv_freq(rope, 8), rel=1e-6)
    assert model.model.rotary_emb.attention_scaling == pytest.approx(attention_scaling(rope))
    # Far beyond the window of 64.
    tokens = torch.randint(96, (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (hidden_states(model, tokens) - hidden_states(plain, tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rope_set_in_an_open_model_is_to_the_bit_that_of_one_opened_with_it(base: str, dtype: str) -> None:
    """From any type to any other; the weights are not read again."""
    model, plain = open_for_evaluation(base, dtype=dtype)
    weights = {name: value.data_ptr() for name, value in model.named_parameters()}
    tokens = torch.randint(96, (1, 300), generator=torch.Generator().manual_seed(0))
    for rope in (*OVERRIDES.values(), plain):
        set_rope(model, rope)
        fresh, _ = open_for_evaluation(base, rope=rope, dtype=dtype)
        assert frequencies(model).equal(frequencies(fresh))
        with torch.no_grad():
            assert hidden_states(model, tokens).equal(hidden_states(fresh, tokens))
    assert {name: value.data_ptr() for name, value in model.named_parameters()} == weights


def test_bfloat16_keeps_the_frequencies_in_float32(base: str) -> None:
    model, _ = open_for_evaluation(base, rope=OVERRIDES["yarn"])
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert frequencies(model).dtype == torch.float32


def test_a_length_beyond_the_window_is_no_warning(base: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = open_for_evaluation(base, dtype="float32")
        with torch.no_grad():
            assert hidden_states(model, torch.zeros(2, 500, dtype=torch.int64)).isfinite().all()


def test_frequencies_that_are_not_those_asked_for_are_refused(base: str) -> None:
    model, settings = open_for_evaluation(base, dtype="float32")
    with pytest.raises(ConfigError, match="rope: the model's frequencies are not those"):
        assert_rope(model, OVERRIDES["theta"])
    model.model.rotary_emb.attention_scaling = 1.2
    with pytest.raises(ConfigError, match=r"the model scales cos and sin by 1.2, expected 1 "):
        assert_rope(model, settings)
    model.bfloat16()
    with pytest.raises(ConfigError, match="must be float32"):
        assert_rope(model, settings)


def test_a_sliding_window_is_refused_or_dropped(tmp_path: Path) -> None:
    path = str(tiny_model_directory(tmp_path / "sliding", "mistral", sliding_window=16))
    with pytest.raises(ConfigError, match="sliding window of 16"):
        open_for_evaluation(path)
    model, _ = open_for_evaluation(path, drop_sliding_window=True, dtype="float32")
    tokens = torch.zeros(2, 40, dtype=torch.int64)
    tokens[1, 0] = 5
    with torch.no_grad():
        one, other = hidden_states(model, tokens)[:, -1]
    assert not torch.equal(one, other)


def test_what_cannot_be_opened_is_named(tmp_path: Path, base: str) -> None:
    with pytest.raises(ConfigError, match="dtype float8: must be one of float32, bfloat16"):
        open_for_evaluation(base, dtype="float8")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"^evaluate: cannot read a model config at"):
        open_for_evaluation(str(empty))
    (empty / "config.json").write_text((Path(base) / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"^evaluate: .* holds neither model.safetensors nor "):
        open_for_evaluation(str(empty))
    config = json.loads((Path(base) / "config.json").read_text())
    (empty / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="is of type gpt2"):
        open_for_evaluation(str(empty))


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve_device("auto") == expected
    assert resolve_device("cuda:1") == "cuda:1"
