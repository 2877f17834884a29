"""The truth of the training tests: a plain float64 model with a written-out mask, by transformers alone."""

import itertools
from typing import Any

import torch
from torch import Tensor

from longspan.feed.batch import MicroBatch


def plain_network(model: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    # The recipe's NTK base, by its formula: theta * factor ** (d / (d - 2)), 512 / 64 = 8, head_dim 8.
    config.rope_parameters = {"rope_type": "default", "rope_theta": 500.0 * 8 ** (8 / 6)}
    network = AutoModelForCausalLM.from_pretrained(
        model, config=config, dtype=torch.float64, attn_implementation="eager"
    )
    return network.train()


def target_losses(network: Any, batch: MicroBatch, visible: Tensor | None = None) -> dict[int, Tensor]:
    """Cross-entropy of each target of `batch` by its place, over all logits and under a dense mask.

    `visible` is bool [tokens, tokens] or [heads, tokens, tokens], what each token (row) sees; left out: its document up
    to itself.
    """
    if visible is None:
        visible = torch.zeros(batch.num_tokens, batch.num_tokens, dtype=torch.bool)
        for start, end in itertools.pairwise(batch.cu_seqlens.tolist()):
            visible[start:end, start:end] = True
        visible = visible.tril()
    mask = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, torch.finfo(torch.float64).min)
    logits = network(
        input_ids=torch.from_numpy(batch.input_ids).long()[None],
        position_ids=torch.from_numpy(batch.positions)[None],
        attention_mask=mask.view(1, -1, *mask.shape[-2:]),
        use_cache=False,
    ).logits[0]
    places = (batch.labels >= 0).nonzero()[0].tolist()
    return {i: -logits[i].log_softmax(-1)[int(batch.labels[i])] for i in places}
