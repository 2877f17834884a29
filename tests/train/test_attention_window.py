"""Training within widening blocks: loss and gradients of a plain float64 model under the paper's dense mask."""

from typing import Any

import numpy as np
import pytest
import torch

from longspan.config.attention_window import AttentionWindow
from longspan.feed.attention_window import limit_attention
from longspan.feed.batch import BatchSettings, MicroBatch, Sample, make_micro_batch
from longspan.positions import LongRecipe
from longspan.train.world import start_single_process
from tests.tiny import tiny_model_directory
from tests.train.plain_model import plain_network, target_losses
from tests.train.sp_case import TOKENS, gradients

RELATIVE = 1e-5
LENGTHS = ([31, 17], [48], [5, 40], [20, 20, 8])
WIDTHS = (7, 9, 11, 13)


def whole_batches() -> list[MicroBatch]:
    settings = BatchSettings(TOKENS, 512, LongRecipe(), True, 0, np.arange(96) % 5 == 0)
    made = []
    for number, lengths in enumerate(LENGTHS):
        ids = np.random.default_rng([3, number]).integers(0, 96, sum(lengths)).astype(np.uint32)
        sample = Sample(number, np.zeros(len(lengths), np.int64), np.array(lengths, np.int32))
        made.append(make_micro_batch([sample], (ids, None), settings))
    return made


def batches() -> list[MicroBatch]:
    """One sample a step, so that each has a width of its own."""
    window = AttentionWindow(start=7, rate=2)
    samples = [
        Sample(n, np.zeros(len(lengths), np.int64), np.array(lengths, np.int32)) for n, lengths in enumerate(LENGTHS)
    ]
    return [limit_attention(batch, [sample], window, 1) for batch, sample in zip(whole_batches(), samples, strict=True)]


def visible(lengths: list[int], w: int) -> torch.Tensor:
    mask = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    begin = 0
    for length in [*lengths, TOKENS - sum(lengths)]:
        for i in range(length):
            mask[begin + i, begin + i // w * w : begin + i + 1] = True
        begin += length
    return mask


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_directory(tmp_path_factory.mktemp("window") / "model", "qwen3"))


@pytest.fixture(scope="module")
def truth(model: str) -> dict[str, Any]:
    network = plain_network(model)
    losses, whole = list[torch.Tensor](), list[torch.Tensor]()
    for batch, lengths, w in zip(whole_batches(), LENGTHS, WIDTHS, strict=True):
        losses += target_losses(network, batch, visible(lengths, w)).values()
        with torch.no_grad():
            whole += target_losses(network, batch).values()
    loss = torch.stack(losses).mean()
    loss.backward()
    assert abs(torch.stack(whole).mean().item() - loss.item()) > 1e-4, "the blocks change something"
    return {"loss": loss.item(), "grads": {name: p.grad.clone() for name, p in network.named_parameters()}}


def test_one_process_computes_the_truth(model: str, truth: dict[str, Any]) -> None:
    start_single_process(use_gpu=False)
    found = gradients(model, 1, 1, 1, False, 0, make_batches=batches)
    assert found["loss"] == pytest.approx(truth["loss"], rel=RELATIVE)
    for name, wanted in truth["grads"].items():
        assert (found["grads"][name].double() - wanted).norm() < RELATIVE * wanted.norm(), name
