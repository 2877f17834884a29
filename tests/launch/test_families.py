"""Every family trained by `longspan train` and loaded again by plain transformers; also ZeRO-3 and bfloat16."""

from pathlib import Path
from typing import Any

import pytest
import torch

from longspan.config.corpus import Corpus
from longspan.config.load import parse
from longspan.config.model import Model, Rope
from longspan.corpus.prepare import prepare
from longspan.launch.run import train
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from tests.tiny import FAMILIES, tiny_model_directory, tiny_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("".join(f"line {n}: the {n * 7 % 13} grey geese.\n" for n in range(400)))
    values = {
        "output": str(folder / "data"),
        "tokenizer": {"train_vocab_size": 300},
        "sources": [{"name": "text", "paths": [str(folder / "text.txt")]}],
    }
    prepare(parse(Corpus, values, "test corpus"))
    return folder / "data"


def trained(folder: Path, corpus: Path, family: str, **sections: Any) -> Path:
    model = tiny_model_directory(folder / "model", family, vocab_size=320)
    recipe = tiny_recipe(
        model, corpus, output=str(folder / "run"), **{"rope": {"type": "yarn"}, "train": {"steps": 2}, **sections}
    )
    assert train(recipe, show_progress=False)["finished"]
    return folder / "run" / "checkpoint"


def plain_logits(checkpoint: Path, tokens: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="sdpa")
    with torch.no_grad():
        return model(input_ids=tokens).logits[0]


def trainer_logits(checkpoint: Path, tokens: torch.Tensor, dtype: str) -> torch.Tensor:
    """The trainer's own forward: its attention, its document boundaries, its float32 positions."""
    from longspan.model.attention import Documents

    network, _ = open_model(Model(path=str(checkpoint), dtype=dtype), Rope(), 256, seed=0)  # type: ignore[arg-type]
    forward = CausalLMLoss(network, loss_chunk=16).eval()
    positions = torch.arange(tokens.shape[1], dtype=torch.float32)[None]
    with torch.no_grad():
        hidden = forward.hidden_states(tokens, positions, Documents((0, tokens.shape[1])))
        return network.get_output_embeddings()(hidden)[0]  # type: ignore[operator]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_extended_model_is_the_same_model_in_plain_transformers(tmp_path: Path, corpus: Path, family: str) -> None:
    checkpoint = trained(tmp_path, corpus, family)
    tokens = torch.arange(200)[None] % 300
    torch.testing.assert_close(
        plain_logits(checkpoint, tokens), trainer_logits(checkpoint, tokens, "float32"), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zero_3_leaves_the_weights_that_zero_1_leaves(tmp_path: Path, corpus: Path, dtype: str) -> None:
    from safetensors.torch import load_file

    model = {"path": str(tiny_model_directory(tmp_path / "base", vocab_size=320)), "dtype": dtype}
    results = []
    for stage in (1, 3):
        checkpoint = trained(
            tmp_path / str(stage), corpus, "llama", model=model, train={"steps": 2, "zero_stage": stage}
        )
        results.append(load_file(checkpoint / "model.safetensors"))
    first, third = results
    assert first.keys() == third.keys()
    assert {tensor.dtype for tensor in third.values()} == {getattr(torch, dtype)}
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, third[name], rtol=0, atol=1e-5 if dtype == "float32" else 2e-2)
