"""The recipe's `rope:` section: what each type takes, and what it needs of positions and data."""

from typing import Any

import pytest

from longspan.config.load import to_yaml
from longspan.errors import ConfigError
from tests.tiny import tiny_recipe

E2LLM = {"type": "e2llm", "window": 64}
CONTIGUOUS = {"type": "contiguous"}


@pytest.mark.parametrize(
    "sections",
    [
        {"rope": {"type": "longrope", "factor": 4, "long_factor": [1, 2.5], "short_factor": [1, 1]}},
        {"rope": {"type": "longrope", "critical_dimension": 2, "attention_factor": 1}},
        {"rope": {"type": "yarn", "attention_factor": 1.1}},
        {"rope": {"type": "e2llm", "factor": 3}, "positions": E2LLM},
        {"rope": {"type": "keep"}, "positions": E2LLM},
        {"rope": {"type": "ntk", "mixed_window": True}, "positions": CONTIGUOUS},
        {"rope": {"type": "keep", "mixed_window": True}, "positions": CONTIGUOUS},
    ],
)
def test_a_section_is_the_same_after_its_yaml(sections: dict[str, Any]) -> None:
    import yaml

    recipe = tiny_recipe("model", **sections)
    again = tiny_recipe("model", **{**sections, "rope": yaml.safe_load(to_yaml(recipe))["rope"]})
    assert again == recipe
    assert {key: getattr(recipe.rope, key) for key in ("type", "mixed_window")} == {
        "mixed_window": False,
        **{key: value for key, value in sections["rope"].items() if key in ("type", "mixed_window")},
    }


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rope": {"type": "ntk", "attention_factor": 1}}, "'attention_factor' has no meaning for type 'ntk'"),
        ({"rope": {"type": "yarn", "long_factor": [1, 2]}}, "'long_factor' has no meaning for type 'yarn'"),
        ({"rope": {"type": "yarn", "critical_dimension": 2}}, "'critical_dimension' has no meaning for type 'yarn'"),
        ({"rope": {"type": "longrope", "long_factor": [0.5, 2]}}, "rope.long_factor.0"),
        ({"rope": {"type": "longrope", "long_factor": [1, 2], "critical_dimension": 1}}, "beside 'long_factor'"),
        ({"rope": {"type": "longrope", "short_factor": [1, 2], "mixed_window": True}}, "beside 'mixed_window'"),
        ({"rope": {"type": "e2llm", "mixed_window": True}, "positions": E2LLM}, "'mixed_window' has no meaning"),
        ({"rope": {"type": "e2llm", "theta": 1e4}, "positions": E2LLM}, "'theta' has no meaning for type 'e2llm'"),
        ({"rope": {"type": "e2llm"}}, "it needs positions.type: e2llm, not 'longrecipe'"),
        ({"rope": {"mixed_window": True}}, "set positions.type: contiguous"),
        (
            {"rope": {"mixed_window": True}, "positions": CONTIGUOUS, "data": {"document_mask": False}},
            "set data.document_mask: true",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        tiny_recipe("model", **sections)
