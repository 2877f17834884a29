"""From a recipe to the settings of its plan: short mixes, overrides by source, names that are not there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config.data import MixPhase
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.planner.settings import phase_weights, plan_settings
from longspan.sampling.plan import Upsample
from tests.tiny import tiny_recipe

NAMES = ["books", "code", "chat"]


def recipe(**data: Any) -> Recipe:
    return tiny_recipe("nowhere", data={"mix": [{"weights": {"books": 1.0}}], **data}, seed=7)


def test_what_the_recipe_says_arrives() -> None:
    settings = plan_settings(recipe(packing="sequential", shuffle=False, shuffle_tokens=99), NAMES)
    assert (settings.steps, settings.global_batch_size, settings.sample_length, settings.seed) == (4, 4, 32, 7)
    assert (settings.packing, settings.shuffle, settings.shuffle_tokens) == ("sequential", False, 99)
    assert (settings.upsample, settings.max_epochs, settings.on_limit) == ({}, {}, "refuse")
    (point,) = settings.mix
    assert (point.step, point.weights, point.ramp) == (0, {"books": 1.0}, False)


def test_a_share_of_every_phase_is_for_short_documents() -> None:
    """ProLong's shape: 60 % long (books and code alike), 40 % short with a mix of its own."""
    short = {"share": 0.4, "weights": {"chat": 3, "code": 1}}
    phases = [
        {"weights": {"books": 5, "code": 5}, "short": short, "ramp": True},
        {"from_step": 2, "weights": {"books": 1}},
    ]
    first, second = plan_settings(recipe(mix=phases), NAMES).mix
    assert first.weights == pytest.approx({"books": 0.3, "code": 0.3 + 0.1, "chat": 0.3})
    assert (first.step, first.ramp, second.step, second.ramp) == (0, True, 2, False)
    assert second.weights == {"books": 1.0}


WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e308), min_size=1).filter(lambda w: max(w.values()) > 0)


@given(WEIGHTS, WEIGHTS, st.floats(0, 1))
def test_shares_add_up_whatever_the_weights(long: dict[str, float], short: dict[str, float], share: float) -> None:
    shares = phase_weights(MixPhase.model_construct(weights=long, short=None))
    assert sum(shares.values()) == pytest.approx(1)
    mixed = phase_weights(MixPhase.model_validate({"weights": long, "short": {"share": share, "weights": short}}))
    only = phase_weights(MixPhase.model_construct(weights=short, short=None))
    assert set(mixed) == {*long, *short}
    for name, value in mixed.items():
        assert value == pytest.approx((1 - share) * shares.get(name, 0) + share * only.get(name, 0))


def test_upsampling_is_overridden_by_source() -> None:
    by_source = {"code": {"ratio": 1}, "chat": {"threshold": 64, "ratio": 2}}
    settings = plan_settings(recipe(upsample={"threshold": 128, "ratio": 5, "by_source": by_source}), NAMES)
    assert settings.upsample == {"books": Upsample(128, 5.0), "chat": Upsample(64, 2.0)}
    only = {"threshold": 128, "ratio": 1, "by_source": {"books": {"ratio": 3}}}
    assert plan_settings(recipe(upsample=only), NAMES).upsample == {"books": Upsample(128, 3.0)}


def test_limits_are_overridden_by_source() -> None:
    settings = plan_settings(recipe(repetition={"max_epochs": 4, "by_source": {"code": 1.5}}), NAMES)
    assert settings.max_epochs == {"books": 4.0, "code": 1.5, "chat": 4.0}
    only = plan_settings(recipe(repetition={"by_source": {"code": 1.5}, "on_limit": "spread"}), NAMES)
    assert (only.max_epochs, only.on_limit) == ({"code": 1.5}, "spread")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"mix": [{"weights": {"books": 1}}, {"from_step": 1, "weights": {"x": 1}}]}, "data.mix.1.weights.x"),
        (
            {"mix": [{"weights": {"books": 1}, "short": {"share": 0.1, "weights": {"x": 1}}}]},
            "data.mix.0.short.weights.x",
        ),
        ({"upsample": {"threshold": 9, "ratio": 2, "by_source": {"x": {"ratio": 3}}}}, "data.upsample.by_source.x"),
        ({"repetition": {"by_source": {"x": 3}}}, "data.repetition.by_source.x"),
    ],
)
def test_a_name_that_is_no_source_is_one_line_with_its_field(data: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_settings(recipe(**data), NAMES)
    assert str(caught.value) == f"{field}: not a source of the manifest; it has books, chat, code"
