"""The grid: what is asked, what is counted, and where it is entered."""

from typing import Any

import numpy as np
import pytest
import torch

from longspan.errors import ConfigError
from longspan.evaluate.grid import GridExample, grid_of, predict, retrieved, score_grid


def counting(length: int, index: int) -> GridExample:
    """Tokens 0, 1, 2, ... (+ index); asks for the last four, two needles of two tokens, the deeper one first."""
    tokens = (np.arange(length, dtype=np.uint32) + index) % 50
    positions = np.arange(length - 4, length, dtype=np.int64)
    return GridExample(tokens, positions, np.array([1, 1, 0, 0]))


def successor(tokens: list[int]) -> int:
    return (tokens[-1] + 1) % 50


def test_a_model_that_knows_gets_everything_and_one_that_does_not_gets_nothing(oracle: Any) -> None:
    settings: dict[str, Any] = {"task": "tokens", "num_needles": 2, "examples": 3, "device": "cpu"}
    assert score_grid(oracle(successor, 50), counting, [8, 12], **settings).mean == (1.0, 1.0)
    assert score_grid(oracle(lambda tokens: tokens[-1], 50), counting, [8], **settings).mean == (0.0,)


def test_one_wrong_token_costs_its_needle_only(oracle: Any) -> None:
    # Index 11 belongs to bin 0 (the last two tokens of twelve).
    model = oracle(lambda tokens: 0 if len(tokens) == 11 else successor(tokens), 50)
    assert retrieved(model, [counting(12, 0), counting(12, 5)], 2, "cpu").tolist() == [[False, True], [False, True]]


def test_accuracy_is_by_depth_and_then_length(oracle: Any) -> None:
    model = oracle(lambda tokens: 0 if len(tokens) == 11 else successor(tokens), 50)
    grid = score_grid(model, counting, [12, 8], task="text", num_needles=2, examples=2, device="cpu")
    assert (grid.lengths, grid.depths) == ((8, 12), (0.25, 0.75))
    assert grid.accuracy == ((1.0, 0.0), (1.0, 1.0))
    assert grid.mean == (1.0, 0.5)
    assert grid.to_dict() == {
        "task": "text",
        "lengths": [8, 12],
        "depths": [0.25, 0.75],
        "accuracy": [[1.0, 0.0], [1.0, 1.0]],
        "mean": [1.0, 0.5],
        "stderr": [0.0, 0.0],
        "examples": 2,
    }


def test_standard_error_is_over_examples_and_absent_for_one() -> None:
    hits = np.array([[[True, True], [False, False], [True, False], [True, True]]])
    grid = grid_of(hits, [8], "tokens")
    assert grid.mean == (0.625,)
    assert grid.stderr[0] == pytest.approx(np.std([1, 0, 0.5, 1], ddof=1) / 2)
    assert grid_of(hits[:, :1], [8], "tokens").stderr == (None,)


def test_batches_hold_at_most_the_tokens_asked_for_and_change_nothing(oracle: Any) -> None:
    grids = []
    for batch_tokens, calls in ((1, 5), (24, 3), (1000, 1)):
        model = oracle(successor, 50)
        batches: list[int] = []
        model.model = lambda input_ids, use_cache, inner=model.model, batches=batches: (
            batches.append(len(input_ids)) or inner(input_ids, use_cache)
        )
        grids.append(
            score_grid(
                model, counting, [12], task="tokens", num_needles=2, examples=5, device="cpu", batch_tokens=batch_tokens
            )
        )
        assert len(batches) == calls
        assert sum(batches) == 5
    assert grids[0] == grids[1] == grids[2]


def test_the_head_sees_the_asked_places_only(oracle: Any) -> None:
    model = oracle(successor, 50)
    retrieved(model, [counting(40, 0)], 2, "cpu")
    assert model.asked == 4


def test_each_length_is_announced_and_reported(oracle: Any) -> None:
    lines: list[str] = []
    score_grid(
        oracle(successor, 50),
        counting,
        [8, 12],
        task="tokens",
        num_needles=2,
        examples=1,
        device="cpu",
        before_length=lambda length: lines.append(f"now {length}"),
        report=lines.append,
    )
    grid = "needle grid of tokens:"
    assert lines == ["now 8", f"{grid} 8 tokens: 1.000", "now 12", f"{grid} 12 tokens: 1.000"]


def test_predictions_are_those_of_the_whole_model_beyond_its_window(make_llama: Any) -> None:
    model = make_llama(max_position_embeddings=16).train()
    tokens = torch.randint(64, (2, 48), generator=torch.Generator().manual_seed(1))
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([5, 0, 47])
    found = predict(model, tokens, rows, columns)
    assert model.training
    with torch.no_grad():
        logits = model.eval()(input_ids=tokens).logits
    assert found.tolist() == logits[rows, columns].argmax(-1).tolist()


def test_the_model_is_put_back_in_training_mode_after_an_error(make_llama: Any) -> None:
    model = make_llama().train()
    with pytest.raises(IndexError):
        predict(model, torch.full((1, 4), 1000), torch.tensor([0]), torch.tensor([1]))
    assert model.training


@pytest.mark.parametrize("wrong", [{"lengths": []}, {"examples": 0}, {"num_needles": 0}, {"batch_tokens": 0}])
def test_refuses_nothing_to_do(oracle: Any, wrong: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"lengths": [8], "num_needles": 2, "examples": 1, "batch_tokens": 8} | wrong
    with pytest.raises(ConfigError, match="needle grid: lengths="):
        score_grid(oracle(successor, 50), counting, task="tokens", device="cpu", **settings)
