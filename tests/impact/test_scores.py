"""Scores against a plain reference: transformers' own forward, one token and one prefix at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.corpus.impact.settings import Machine
from longspan.evaluate import grid
from longspan.impact import scores
from longspan.impact.models import Pair, open_pair
from longspan.impact.scores import document_scores, document_windows, gold_values
from tests.impact.conftest import VOCAB, Material


@pytest.fixture(scope="module")
def pair(material: Material) -> Pair:
    return open_pair(material.settings(), Machine(device="cpu"))


def tokens_of(length: int) -> Any:
    return np.random.default_rng(length).integers(0, VOCAB, length, dtype=np.uint32)


def reference(model: Any, tokens: Any, place: int, prefix: int, measure: str = "logprob") -> float:
    """Value of tokens[place] after its last `prefix` tokens."""
    ids = torch.tensor(tokens[max(0, place - prefix) : place].astype(np.int64))[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1]
    return float((logits if measure == "logit" else logits.log_softmax(0))[int(tokens[place])])


@given(st.integers(1, 300), st.integers(2, 60), st.data())
def test_windows_score_every_token_once_with_enough_before_it(num_tokens: int, width: int, data: Any) -> None:
    stride = data.draw(st.integers(1, width - 1))
    windows = document_windows(num_tokens, width, stride)
    scored = [place for window in windows for place in range(window.first, window.end)]
    assert scored == list(range(1, num_tokens))
    for window in windows:
        assert 0 <= window.begin < window.end <= min(num_tokens, window.begin + width)
        assert window.begin == 0 or window.first - window.begin >= width - stride
    assert sum(window.end - window.begin for window in windows) <= num_tokens * (width / stride + 1)


@pytest.mark.parametrize("measure", ["logprob", "logit"])
def test_two_models_with_the_same_prefix(material: Material, pair: Pair, measure: Any) -> None:
    """LongRecipe's difference (1c.2: the released code stores one model's probabilities instead)."""
    tokens = tokens_of(60)
    found = document_scores(pair, tokens, material.settings(measure=measure), 100)
    assert found.dtype == np.float32
    assert found[0] == 0
    for place in (1, 2, 17, 59):
        expected = reference(pair.long, tokens, place, 60, measure) - reference(pair.base, tokens, place, 60, measure)
        assert found[place] == pytest.approx(expected, abs=2e-5)
    assert found.min() < 0 < found.max()


def test_repeated_tokens_have_a_score_each(material: Material, pair: Pair) -> None:
    """1c.2: the released code keys its output by token, so that the last one overwrites the others."""
    tokens = np.full(40, 5, np.uint32)
    tokens[::3] = 9
    found = document_scores(pair, tokens, material.settings(), 100)
    assert len(np.unique(found[tokens == 5])) > 20


def test_one_model_with_a_long_and_a_short_prefix(material: Material, pair: Pair) -> None:
    tokens = tokens_of(60)
    settings = material.settings(base=None, short_prefix=8, stride=4)
    found = document_scores(Pair(pair.long, None), tokens, settings, 50)
    assert (found[:12] == 0).all()
    for place in (12, 15, 16, 30, 59):
        # Neighbours share a window: the short prefix has 8 to 11 tokens.
        short = 8 + (place - 8) % 4
        expected = reference(pair.long, tokens, place, 60) - reference(pair.long, tokens, place, short)
        assert found[place] == pytest.approx(expected, abs=2e-5)
    assert (found[12:] != 0).all()


def test_a_short_prefix_for_the_base_model_alone(material: Material, pair: Pair) -> None:
    tokens = tokens_of(40)
    found = document_scores(pair, tokens, material.settings(short_prefix=8, stride=4), 64)
    for place in (1, 11, 12, 39):
        short = place if place < 12 else 8 + (place - 8) % 4
        expected = reference(pair.long, tokens, place, 40) - reference(pair.base, tokens, place, short)
        assert found[place] == pytest.approx(expected, abs=2e-5)


def test_a_document_longer_than_the_window_keeps_half_of_it_as_prefix(material: Material, pair: Pair) -> None:
    tokens = tokens_of(130)
    found = document_scores(pair, tokens, material.settings(), 1000)
    for place, prefix in ((63, 63), (64, 32), (95, 63), (96, 32), (129, 33)):
        expected = reference(pair.long, tokens, place, prefix) - reference(pair.base, tokens, place, prefix)
        assert found[place] == pytest.approx(expected, abs=2e-5), place


@pytest.mark.parametrize("length", [1, 2, 11, 12, 13])
def test_short_documents(material: Material, pair: Pair, length: int) -> None:
    settings = material.settings(base=None, short_prefix=8, stride=4)
    found = document_scores(Pair(pair.long, None), tokens_of(length), settings, 50)
    assert found.shape == (length,)
    assert np.count_nonzero(found) == max(0, length - 12)


def test_logits_are_held_for_a_few_tokens_at_once(
    material: Material, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(60)
    expected = gold_values(pair.long, tokens, document_windows(60, 64, 32), "logprob", 100)
    sizes: list[int] = []
    head: Any = pair.long.get_output_embeddings()  # type: ignore[operator]
    monkeypatch.setattr(scores, "LOGITS_CHUNK", 7)
    with head.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0]))):
        found = gold_values(pair.long, tokens, document_windows(60, 64, 32), "logprob", 100)
    assert max(sizes) == 7
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert grid.LOGITS_CHUNK == 2048
