"""Whole runs whose exported RoPE is not simply the trained one: E2-LLM's scale, LongRoPE2's two windows."""

from typing import Any

import pytest

from longspan import storage
from longspan.config.model import Rope
from longspan.errors import LaunchError
from longspan.evaluate.opening import open_for_evaluation
from longspan.launch.run import train
from longspan.model.load import read_config, rope_of_run
from longspan.rope import RopeSettings, from_hf, to_hf
from longspan.sweep.run import assert_trial_rope
from tests.launch.conftest import MakeRecipe

CASES: dict[str, dict[str, Any]] = {
    "e2llm": {
        "rope": {"type": "e2llm"},
        "positions": {"type": "e2llm", "window": 64},
        "evaluate": {"lengths": [128, 256], "text_source": "held", "needles": 1, "examples": 1},
    },
    # In bfloat16: DeepSpeed casts the weights and must leave both sets of frequencies alone.
    "mixed": {
        "rope": {"type": "ntk", "mixed_window": True},
        "positions": {"type": "contiguous"},
        "model": {"dtype": "bfloat16"},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_exported_rope_is_that_of_the_target_length(make: MakeRecipe, name: str) -> None:
    recipe = make(
        **CASES[name],
        train={"steps": 2},
        data={"sample_length": 96, "mix": [{"weights": {"text": 1.0}}]},
    )
    summary = train(recipe, show_progress=False)
    planned = rope_of_run(read_config(recipe.model), recipe.rope, 256).exported
    config = storage.read_json(storage.join(summary["checkpoint"], "config.json"))
    assert from_hf(config) == planned
    assert summary["rope"] == to_hf(planned)
    assert config["max_position_embeddings"] == 256
    assert planned.rope_type == {"e2llm": "linear", "mixed": "longrope"}[name]
    assert open_for_evaluation(summary["checkpoint"], dtype="float32")[1] == planned
    assert assert_trial_rope(recipe) == 500.0
    # Within the original window this one is the same as that of mixed windows.
    other = recipe.model_copy(update={"rope": Rope(type="longrope", attention_factor=1.0)})
    with pytest.raises(LaunchError, match="not what the trial's rope section asks for"):
        assert_trial_rope(other)
    if name == "e2llm":
        assert planned == RopeSettings("linear", 500.0, factor=4.0)
        # Asked at the scale of each length, not at the one in the config.
        assert summary["evaluation"]["scales"] == {"128": 2, "256": 4}
        card = storage.read_text(storage.join(summary["checkpoint"], "README.md"))
        assert f"| 256 | {summary['evaluation']['needle']['mean'][1]:.1%} | 4 |" in card
