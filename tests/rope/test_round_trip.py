"""from_hf(to_hf(x)) == x for every type of RoPE, any numbers, both styles of keys, through JSON."""

import json
import math
from typing import Any, get_args

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from longspan.rope import ROPE_KEYS, RopeSettings, attention_scaling, config_keys, from_hf, inv_freq
from longspan.rope.settings import RopeType

HEAD_DIM = 16
TARGET = 2**24
above_zero = st.floats(1e-6, 1e6)
thetas = st.floats(1.001, 1e12)
factors = st.one_of(st.floats(1, 1e4), st.integers(1, 1000))
windows = st.integers(2, TARGET - 1)
shares = st.sampled_from([1.0, 0.5, 0.25])


def factor_lists(share: float) -> st.SearchStrategy[tuple[float, ...]]:
    pairs = int(HEAD_DIM * share) // 2
    return st.lists(factors, min_size=pairs, max_size=pairs).map(tuple)


@st.composite
def rope_settings(draw: st.DrawFn, rope_type: RopeType) -> RopeSettings:
    share = draw(shares)
    given_keys: dict[str, Any] = {"partial_rotary_factor": share}
    if rope_type != "default":
        given_keys["factor"] = draw(factors)
    if rope_type not in ("default", "linear"):
        given_keys["original_max_position_embeddings"] = draw(windows)
    match rope_type:
        case "yarn":
            slow = draw(above_zero)
            given_keys |= {"beta_slow": slow, "beta_fast": slow + draw(st.floats(0.1, 100))}
            given_keys |= draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "attention_factor": above_zero,
                        "mscale": above_zero,
                        "mscale_all_dim": above_zero,
                        "truncate": st.booleans(),
                    },
                )
            )
        case "llama3":
            low = draw(above_zero)
            given_keys |= {"low_freq_factor": low, "high_freq_factor": low + draw(st.floats(0.1, 100))}
        case "longrope":
            given_keys |= {"short_factor": draw(factor_lists(share)), "long_factor": draw(factor_lists(share))}
            given_keys |= draw(st.fixed_dictionaries({}, optional={"attention_factor": above_zero}))
    return RopeSettings(rope_type, draw(thetas), **given_keys)


TYPES: tuple[RopeType, ...] = get_args(RopeType)
ANY_SETTINGS = st.sampled_from(TYPES).flatmap(rope_settings)


@given(settings=ANY_SETTINGS, window=st.integers(TARGET, 2 * TARGET), styles=st.sampled_from(["new", "old", "both"]))
def test_what_goes_out_comes_back(settings: RopeSettings, window: int, styles: str) -> None:
    # A "llama3" that divides every frequency is how "linear" goes out, so it comes back as one.
    original = settings.original_max_position_embeddings or 0
    assume((settings.low_freq_factor, settings.high_freq_factor) != (original, 2 * original))
    keys = config_keys(settings, window)
    left_out = {"new": ("rope_theta", "rope_scaling"), "old": ("rope_parameters",), "both": ()}[styles]
    config = {"head_dim": HEAD_DIM, **{key: value for key, value in keys.items() if key not in left_out}}
    found = from_hf(json.loads(json.dumps(config)))
    if settings.rope_type == "yarn" and found != settings:
        # Over another original window, the same to the last bit.
        reached = math.ceil(found.original_max_position_embeddings * settings.factor)
        assert original * settings.factor < window <= reached
        assert attention_scaling(found) == attention_scaling(settings)
        assert np.array_equal(inv_freq(found, HEAD_DIM), inv_freq(settings, HEAD_DIM))
        return
    assert found == settings


@given(settings=ANY_SETTINGS)
def test_both_styles_say_the_same_and_are_complete(settings: RopeSettings) -> None:
    keys = config_keys(settings, TARGET)
    assert keys.keys() <= set(ROPE_KEYS)
    parameters, scaling = keys["rope_parameters"], keys["rope_scaling"] or {"rope_type": "default", "type": "default"}
    assert scaling["type"] == scaling["rope_type"] == parameters["rope_type"]
    inside = {key: value for key, value in keys.items() if key in ("rope_theta", "partial_rotary_factor")}
    assert parameters == {key: value for key, value in scaling.items() if key != "type"} | inside
    assert None not in parameters.values()
