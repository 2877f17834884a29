"""A local run whose documents count alike, from the recipe to the loss that it reports."""

import pytest
import torch

from longspan.feed.source import Source, feed_spec
from longspan.launch.run import train
from longspan.launch.stage import located
from longspan.model.attention import Documents
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.observe.metrics import read_metrics
from tests.launch.conftest import MakeRecipe


def test_the_reported_loss_is_the_mean_over_the_documents(make: MakeRecipe) -> None:
    """With a rate of almost 0, so that every step sees the model of the recipe."""
    data = {"loss_weighting": {"type": "sequence"}, "sample_length": 96}
    recipe = make(data=data, train={"steps": 3, "learning_rate": 1e-30, "micro_batch_size": 2})
    assert train(recipe, show_progress=False)["finished"]
    network, _ = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
    forward = CausalLMLoss(network, loss_chunk=64)
    source, documents = Source(feed_spec(located(recipe))), 0
    for step, line in enumerate(read_metrics(recipe.run_uri)):
        batch = source.micro_batch(step)
        with torch.no_grad():
            hidden = forward.hidden_states(
                torch.from_numpy(batch.input_ids).long()[None],
                torch.from_numpy(batch.positions)[None],
                Documents(tuple(batch.cu_seqlens.tolist())),
            )
            logits = network.get_output_embeddings()(hidden[0]).double()  # type: ignore[operator]
        means = []
        for begin, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
            labels = torch.from_numpy(batch.labels[begin:end]).long()
            if (labels >= 0).any():
                means.append(torch.nn.functional.cross_entropy(logits[begin:end], labels))
        documents += len(means)
        assert line["loss"] == pytest.approx(torch.stack(means).mean().item(), rel=1e-5)
    assert documents > 6, "some samples hold more than one"
