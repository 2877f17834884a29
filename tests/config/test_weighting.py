"""The two ways to weigh targets in a recipe: each with its own fields, told apart by `type`."""

from typing import Any

import pytest

from longspan.config.load import fingerprint, parse, to_yaml
from longspan.config.recipe import Recipe
from longspan.config.weighting import LongCE, SequenceMean
from longspan.errors import ConfigError
from tests.tiny import tiny_recipe


def weighted(weighting: Any) -> Recipe:
    return tiny_recipe("nowhere", data={"loss_weighting": weighting})


def test_a_weighting_without_a_type_is_longce() -> None:
    found = weighted({"scores": "s3://there"}).data.loss_weighting
    assert found == LongCE(type="longce", scores="s3://there", gamma=5.0)
    assert weighted({"type": "sequence"}).data.loss_weighting == SequenceMean(type="sequence")
    assert weighted(None).data.loss_weighting is None


@pytest.mark.parametrize("weighting", [{"type": "sequence"}, {"scores": "here", "gamma": 2.0}])
def test_what_is_written_out_reads_back(weighting: dict[str, Any]) -> None:
    import yaml

    recipe = weighted(weighting)
    assert parse(Recipe, yaml.safe_load(to_yaml(recipe)), "again") == recipe


def test_a_run_does_not_go_on_under_another_loss() -> None:
    marks = {fingerprint(weighted(value)) for value in (None, {"type": "sequence"}, {"scores": "a"})}
    assert len(marks) == 3


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        ({"type": "sequence", "gamma": 2.0}, "'gamma' has no meaning for type 'sequence'; it belongs to ['longce']"),
        ({"type": "sequence", "scores": "x"}, "'scores' has no meaning for type 'sequence'; it belongs to ['longce']"),
        ({"type": "document"}, ".type: input should be one of 'longce', 'sequence', not 'document'"),
        ({"type": ["longce"]}, "input should be one of 'longce', 'sequence', not '['longce']'"),
        ({"type": "longce"}, ".scores: required, but not given"),
        ({"scores": "x", "gama": 2.0}, ".gama: unknown key; did you mean 'gamma'?"),
        ({"type": "sequence", "gama": 2.0}, ".gama: unknown key; known keys: type"),
        ("sequence", "data.loss_weighting"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(weighting: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        weighted(weighting)
    text = str(caught.value)
    assert text.startswith("test recipe: data.loss_weighting")
    assert message in text
    assert "\n" not in text
