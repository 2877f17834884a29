"""LongAlign's loss over a global batch: the mean over its sequences of the mean over each one's targets.

The truth is a plain float64 model that reads the formula out, sequence by sequence; longspan's numbers come through the
feed's weights, the trainer's step, accumulation and two ranks, side by side or sharing every sample.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from longspan.feed.batch import BatchSettings, MicroBatch, Sample, make_micro_batch
from longspan.feed.weighting import weigh_sequences
from longspan.positions import PoSE
from longspan.train.world import start_single_process
from tests.ranks import run_ranks
from tests.tiny import tiny_model_directory
from tests.train.plain_model import plain_network, target_losses
from tests.train.sp_case import TOKENS, gradients

RELATIVE = 1e-5
SPANS = ([3, 20, 11, 14], [46], [2, 2, 2, 33], [9, 30, 9])
DOCUMENTS = ([0, 1, 1, 2], None, None, [0, 1, 2])
NO_TARGET, FRACTIONS = (3, 1), (0, 0)
"""A document that is prompt all through, and one whose targets have weights of their own: (sample, document)."""
Result = dict[str, Any]


def documents(number: int) -> list[int]:
    return DOCUMENTS[number] or list(range(len(SPANS[number])))


def packed(number: int) -> tuple[Sample, np.ndarray, np.ndarray]:
    """Sample `number`, its tokens and weights: the first half of each span is prompt."""
    rng = np.random.default_rng([7, number])
    spans = np.array(SPANS[number], np.int32)
    weights = []
    for document, length in zip(documents(number), spans, strict=True):
        own = (np.arange(length) >= length // 2).astype(np.float32)
        if (number, document) == FRACTIONS:
            own *= rng.random(length).astype(np.float32) + np.float32(0.5)
        weights.append(own * ((number, document) != NO_TARGET))
    sample = Sample(number, np.zeros(spans.size, np.int64), spans, np.array(documents(number), np.int64))
    return sample, rng.integers(0, 96, spans.sum()).astype(np.uint32), np.concatenate(weights).astype(np.float32)


def batches() -> list[MicroBatch]:
    """Four micro-batches of one sample each, as the feed makes them."""
    settings = BatchSettings(TOKENS, 512, PoSE(2), True, 0, np.zeros(96, np.bool_))
    made = []
    for number in range(4):
        sample, ids, weights = packed(number)
        made.append(weigh_sequences(make_micro_batch([sample], (ids, weights), settings), [sample]))
    return made


def sequences() -> Iterator[tuple[int, dict[int, float]]]:
    """(micro-batch, weight in the sequence by place of the target) of every sequence that has a target, by hand."""
    for number in range(4):
        _, _, weights = packed(number)
        at, found = 0, dict[int, dict[int, float]]()
        for document, length in zip(documents(number), SPANS[number], strict=True):
            for token in range(at, at + length - 1):
                if weights[token + 1] > 0:
                    found.setdefault(document, {})[token] = float(weights[token + 1])
            at += length
        for targets in found.values():
            yield number, targets


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_directory(tmp_path_factory.mktemp("sequence-mean") / "model", "qwen3"))


@pytest.fixture(scope="module")
def truth(model: str) -> Result:
    network = plain_network(model)
    losses = [target_losses(network, batch) for batch in batches()]
    means = []
    for number, targets in sequences():
        total = sum(weight * losses[number][place] for place, weight in targets.items())
        means.append(torch.as_tensor(total) / sum(targets.values()))
    loss = torch.stack(means).mean()
    loss.backward()
    plain = torch.stack([value for own in losses for value in own.values()]).mean().item()
    grads = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    return {"loss": loss.item(), "grads": grads, "per_token": plain}


def assert_truth(found: Result, truth: Result) -> None:
    assert found["loss"] == pytest.approx(truth["loss"], rel=RELATIVE)
    assert found["grads"].keys() == truth["grads"].keys()
    for name, wanted in truth["grads"].items():
        assert wanted.norm() > 0, name
        assert (found["grads"][name].double() - wanted).norm() < RELATIVE * wanted.norm(), name


def test_the_case_is_as_hard_as_it_says(truth: Result) -> None:
    found = list(sequences())
    assert len(found) == sum(len(set(documents(number))) for number in range(4)) - 1
    sizes = [len(targets) for _, targets in found]
    assert min(sizes) == 1
    assert max(sizes) > 20
    assert abs(truth["per_token"] - truth["loss"]) > 1e-3 * truth["loss"]


def test_the_weights_of_the_global_batch_add_up_to_its_sequences() -> None:
    total = sum(batch.loss_weight.sum(dtype=float) for batch in batches())
    assert total == pytest.approx(len(list(sequences())), rel=1e-7)


def test_one_process_with_accumulation_computes_the_truth(model: str, truth: Result) -> None:
    start_single_process(use_gpu=False)
    found = gradients(model, 1, 1, 1, False, 0, make_batches=batches)
    assert_truth(found, truth)
    assert found["targets"] == sum(len(targets) for _, targets in sequences())


def both(model: str) -> list[Result]:
    return [gradients(model, 2, sp, zero, False, 0, False, batches) for sp, zero in ((1, 2), (2, 3))]


def test_two_ranks_compute_the_truth_side_by_side_and_sharing_samples(model: str, truth: Result) -> None:
    for rank in run_ranks(both, 2, model):
        for found in rank:
            assert_truth(found, truth)
