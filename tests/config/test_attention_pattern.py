"""A recipe's shifted groups: samples that they do not divide, and company that they cannot keep, are refused."""

from typing import Any

import pytest

from longspan.config.load import fingerprint
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from tests.tiny import tiny_recipe


def asked(pattern: Any, **data: Any) -> Recipe:
    return tiny_recipe("nowhere", model={"attention_pattern": pattern}, data=data)


def test_four_groups_unless_told() -> None:
    pattern = asked({"type": "s2"}).model.attention_pattern
    assert pattern is not None
    assert pattern.groups == 4
    assert asked(None).model.attention_pattern is None
    assert len({fingerprint(asked(value)) for value in (None, {"type": "s2"}, {"type": "s2", "groups": 2})}) == 3


@pytest.mark.parametrize(
    ("pattern", "data", "message"),
    [
        ({"type": "s2", "groups": 1}, {}, "model.attention_pattern.groups: input should be greater than or equal to 2"),
        ({"type": "s3"}, {}, "model.attention_pattern.type: input should be 's2', not 's3'"),
        (
            {"groups": 6},
            {},
            "model.attention_pattern.groups: samples of 32 tokens have no 6 equal groups with equal halves; use a"
            " data.sample_length of 24 or 36",
        ),
        ({"groups": 32}, {}, "use a data.sample_length of 64"),
        (
            {"groups": 4},
            {"attention_window": {"start": 4, "rate": 1}},
            "model.attention_pattern: data.attention_window limits attention already; turn one of them off",
        ),
    ],
)
def test_what_does_not_fit(pattern: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(pattern, **data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
