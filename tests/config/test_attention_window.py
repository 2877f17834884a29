"""A recipe's widening window: windows that never widen and company that it cannot keep are refused."""

from typing import Any

import pytest

from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from tests.tiny import tiny_recipe


def asked(window: dict[str, Any], **sections: Any) -> Recipe:
    data = {"attention_window": window, **sections.pop("data", {})}
    return tiny_recipe("nowhere", data=data, **sections)


@pytest.mark.parametrize(
    "window",
    [{"start": 31, "rate": 1}, {"start": 1, "end": 32, "rate": 0.01, "multiple": 32, "schedule": "sinusoidal"}],
)
def test_windows_that_widen(window: dict[str, Any]) -> None:
    assert asked(window).data.attention_window is not None


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"start": 8}, "data.attention_window.rate: required, but not given"),
        ({"start": 8, "rate": 0}, "data.attention_window.rate: input should be greater than 0"),
        ({"start": 0, "rate": 1}, "data.attention_window.start: input should be greater than 0"),
        ({"start": 8, "end": 8, "rate": 1}, "data.attention_window: 'start' 8 is not below 'end' 8"),
        ({"start": 8, "end": 16, "rate": 1, "multiple": 20}, "'multiple' 20 is above 'end' 16; no block could be one"),
        ({"start": 8, "end": 33, "rate": 1}, "data: 'attention_window.end' 33 is above 'sample_length' 32"),
        ({"rate": 1}, "data: 'attention_window.start' 32 leaves nothing to widen to in samples of 32 tokens; lower it"),
        ({"start": 8, "rate": 1, "multiple": 33}, "data: 'attention_window.multiple' 33 leaves nothing to widen to"),
        ({"start": 8, "rate": 1, "schedule": "cosine"}, "data.attention_window.schedule: input should be 'linear' or"),
        ({"start": 8, "rate": 1, "unit": "step"}, "data.attention_window.unit: unknown key"),
    ],
)
def test_windows_that_do_not(window: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(window)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lengths_of_documents_are_needed_by_mixed_windows() -> None:
    sections = {"rope": {"type": "yarn", "mixed_window": True}, "positions": {"type": "contiguous"}}
    with pytest.raises(ConfigError, match=r"data\.attention_window: it cuts documents into blocks, and rope\.mixed_wi"):
        asked({"start": 8, "rate": 1}, **sections)
