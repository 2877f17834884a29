"""A small tokenizer, tiny models, and models that know the answers: fixtures of the evaluation tests."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

PROSE = "The quick brown fox jumps over 12 lazy dogs; she sells 7 sea shells by the shore.\n" * 40


def make_tokenizer(vocab_size: int = 300, needles: list[str] | None = None, bos: bool = False) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([PROSE], vocab_size=vocab_size, special_tokens=["<s>"], show_progress=False)
    backend = trained._tokenizer
    if bos:
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    if needles:
        tokenizer.add_tokens(needles)
    return tokenizer


@pytest.fixture(scope="session", name="make_tokenizer")
def make_tokenizer_fixture() -> Any:
    return make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def text(tokenizer: Any) -> np.ndarray:
    return np.array(tokenizer(PROSE)["input_ids"], dtype=np.uint32)


class Oracle(nn.Module):
    """A causal LM whose next token after position i is `answer(tokens[:i + 1])`; it counts the sequences it reads."""

    base_model_prefix = "model"

    def __init__(self, answer: Any, vocab_size: int) -> None:
        super().__init__()
        self.head = nn.Linear(vocab_size, vocab_size, bias=False)
        self.head.weight.data = torch.eye(vocab_size)
        self.answer, self.vocab_size = answer, vocab_size
        self.seen: list[Tensor] = []
        self.asked = 0
        self.head.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.asked += output.shape[0]

    def model(self, input_ids: Tensor, use_cache: bool) -> Any:
        assert not any((self.training, torch.is_grad_enabled(), use_cache))
        self.seen.extend(input_ids)
        next_ids = torch.tensor([[self.answer(row[: i + 1]) for i in range(len(row))] for row in input_ids.tolist()])
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot(next_ids, self.vocab_size).float())

    def get_output_embeddings(self) -> nn.Module:
        return self.head


@pytest.fixture(name="oracle")
def oracle_fixture() -> type[Oracle]:
    return Oracle


def make_llama(vocab_size: int = 64, max_position_embeddings: int = 32, **settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from longspan.model import attention

    attention.register()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_position_embeddings,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
        **settings,
    )
    config._attn_implementation = attention.NAME
    return LlamaForCausalLM(config)


@pytest.fixture(name="make_llama")
def make_llama_fixture() -> Any:
    return make_llama
