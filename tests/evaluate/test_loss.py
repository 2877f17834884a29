"""Loss by position: the numbers of the model itself, in the right buckets, over windows that share no token."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import ConfigError, DataError
from longspan.evaluate import loss as module
from longspan.evaluate.loss import bucket_edges, curve_of, loss_by_position, text_windows


def random_text(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 64, size=size).astype(np.uint32) for size in sizes]


@pytest.mark.parametrize("batch_tokens", [1, 100])
def test_equals_the_models_own_cross_entropy_beyond_its_window(
    make_llama: Any, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOGITS_CHUNK", 7)
    model, documents = make_llama(max_position_embeddings=16).train(), random_text(140)
    curve = loss_by_position(
        model, documents, 40, windows=3, buckets=[1, 8, 40], device="cpu", batch_tokens=batch_tokens
    )
    assert model.training
    windows = torch.from_numpy(documents[0][:120].astype(np.int64)).reshape(3, 40)
    with torch.no_grad():
        logits = model.eval()(input_ids=windows).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    expected = expected.reshape(3, 39).double()
    assert curve.edges == (1, 8, 40)
    assert curve.counts == (21, 96)
    assert curve.loss == pytest.approx((expected[:, :7].mean().item(), expected[:, 7:].mean().item()), rel=1e-5)
    assert curve.mean == pytest.approx(expected.mean().item(), rel=1e-5)
    assert curve.stderr[0] == pytest.approx(expected[:, :7].mean(1).std().item() / 3**0.5, rel=1e-4)


def test_no_more_logits_than_a_chunk_are_held(oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS_CHUNK", 5)
    model = oracle(lambda tokens: 3, 64)
    sizes: list[int] = []
    model.head.register_forward_hook(lambda layer, given, output: sizes.append(output.shape[0]))
    loss_by_position(model, random_text(24), 12, windows=2, device="cpu")
    assert max(sizes) == 5
    assert sum(sizes) == 22


def test_to_dict_is_what_the_plot_reads() -> None:
    curve = curve_of(np.arange(14.0).reshape(2, 7), (1, 2, 4, 8), 8, joined=False)
    assert curve.to_dict() == {
        "length": 8,
        "positions": [1.0, pytest.approx(6**0.5), pytest.approx(28**0.5)],
        "edges": [1, 2, 4, 8],
        "loss": [3.5, 5.0, 8.0],
        "stderr": pytest.approx([3.5, 3.5, 3.5]),
        "counts": [2, 4, 8],
        "mean": 6.5,
        "windows": 2,
        "joined": False,
    }
    assert curve_of(np.ones((1, 7)), (1, 8), 8, joined=True).stderr == (None,)


def test_buckets_double_or_are_as_given() -> None:
    assert bucket_edges(1024, 10) == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert bucket_edges(2, 16) == (1, 2)
    assert bucket_edges(64, [1, 10, 64]) == (1, 10, 64)


@given(length=st.integers(2, 5000), buckets=st.integers(1, 40))
def test_log_spaced_buckets_cover_every_target_once(length: int, buckets: int) -> None:
    edges = bucket_edges(length, buckets)
    assert edges[0] == 1
    assert edges[-1] == length
    assert all(low < high for low, high in pairwise(edges))


@pytest.mark.parametrize("edges", [[1], [0, 4], [1, 9], [4, 4], [5, 2]])
def test_refuses_edges_that_do_not_rise_within_the_length(edges: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"must rise, at least two of them, within \[1, 8\]"):
        bucket_edges(8, edges)


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), length=st.integers(2, 30), windows=st.integers(1, 6))
def test_windows_share_no_token_and_stay_in_documents_where_they_can(
    sizes: list[int], length: int, windows: int
) -> None:
    edges = np.cumsum([0, *sizes])
    documents = [np.arange(low, high, dtype=np.uint32) for low, high in pairwise(edges)]
    if sum(sizes) < length:
        with pytest.raises(DataError, match=f"has {sum(sizes)} tokens, a window needs {length}"):
            text_windows(documents, length, windows)
        return
    rows, joined = text_windows(documents, length, windows)
    assert rows.shape[1] == length
    assert 1 <= len(rows) <= windows
    assert len(np.unique(rows)) == rows.size
    assert (np.diff(rows.astype(int), axis=1) == 1).all()
    whole = sum(size // length for size in sizes)
    assert joined == (whole < windows)
    if not joined:
        assert len(rows) == windows
        assert all(np.searchsorted(edges, row[0], "right") == np.searchsorted(edges, row[-1], "right") for row in rows)


@pytest.mark.parametrize("wrong", [{"length": 1}, {"windows": 0}, {"batch_tokens": 0}, {"buckets": 0}])
def test_refuses_settings_without_meaning(oracle: Any, wrong: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"length": 8, "windows": 1, "device": "cpu"} | wrong
    with pytest.raises(ConfigError, match="loss by position: "):
        loss_by_position(oracle(lambda tokens: 3, 64), random_text(24), **settings)
