"""Attention against a plain float64 reference with the mask written out: boundaries come from cu_seqlens alone."""

import importlib.util
import inspect
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from longspan.errors import ConfigError
from longspan.model import attention
from longspan.model.attention import Documents, document_attention, longspan_attention, resolve_kernel

MODULE = nn.Module()
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
shapes = given(
    lengths=LENGTHS,
    kv_heads=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([2, 8, 12]),
    seed=st.integers(0, 2**16),
)


def boundaries(lengths: list[int]) -> tuple[int, ...]:
    return (0, *torch.tensor(lengths).cumsum(0).tolist())


def qkv(
    rows: int, heads: int, kv_heads: int, tokens: int, head_dim: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.randn(rows, count, tokens, head_dim, generator=generator, dtype=torch.float64)

    return draw(heads), draw(kv_heads), draw(kv_heads)


def reference(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, where allowed) v with the key-value heads repeated; [rows, tokens, heads, head_dim]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~allowed, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def document_mask(cu_seqlens: tuple[int, ...]) -> Tensor:
    """True where query i may look at key j: same document, and j not after i."""
    tokens = torch.arange(cu_seqlens[-1])
    document = torch.bucketize(tokens, torch.tensor(cu_seqlens[1:]), right=True)
    return (document[:, None] == document[None]) & (tokens[:, None] >= tokens[None])


@shapes
@settings(deadline=None, max_examples=60)
def test_packed_documents_equal_the_explicit_mask(
    lengths: list[int], kv_heads: int, groups: int, head_dim: int, seed: int
) -> None:
    cu_seqlens = boundaries(lengths)
    query, key, value = qkv(1, kv_heads * groups, kv_heads, cu_seqlens[-1], head_dim, seed)
    out = document_attention(query, key, value, Documents(cu_seqlens), 0.37)
    expected = reference(query, key, value, document_mask(cu_seqlens), 0.37)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


@shapes
@settings(deadline=None, max_examples=30)
def test_gradients_equal_those_of_the_explicit_mask(
    lengths: list[int], kv_heads: int, groups: int, head_dim: int, seed: int
) -> None:
    cu_seqlens = boundaries(lengths)
    query, key, value = qkv(1, kv_heads * groups, kv_heads, cu_seqlens[-1], head_dim, seed)
    inputs = (query.requires_grad_(), key.requires_grad_(), value.requires_grad_())
    weight = torch.randn(head_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out, _ = longspan_attention(MODULE, *inputs, None, documents=Documents(cu_seqlens))
    expected = reference(*inputs, document_mask(cu_seqlens), head_dim**-0.5)
    found = torch.autograd.grad((out @ weight).square().sum(), inputs)
    wanted = torch.autograd.grad((expected @ weight).square().sum(), inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_documents_of_equal_length_are_one_kernel_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    plain = attention.F.scaled_dot_product_attention

    def counted(query: Tensor, *args: Any, **settings: Any) -> Tensor:
        assert settings["attn_mask"] is None
        calls.append(query.shape)
        return plain(query, *args, **settings)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", counted)
    query, key, value = qkv(1, 4, 2, 15, 8)
    equal = document_attention(query, key, value, Documents((0, 5, 10, 15)), 0.5)
    assert calls == [(3, 4, 5, 8)]
    torch.testing.assert_close(equal, reference(query, key, value, document_mask((0, 5, 10, 15)), 0.5))

    calls.clear()
    document_attention(query, key, value, Documents((0, 4, 10, 15)), 0.5)
    assert [shape[2] for shape in calls] == [4, 6, 5]


@pytest.mark.parametrize("queries", [1, 2, 5, 11, 12])
def test_with_a_cache_the_queries_are_the_last_tokens(queries: int) -> None:
    query, key, value = qkv(3, 4, 2, 12, 8)
    whole = reference(query, key, value, document_mask((0, 12)), 8**-0.5)
    out, weights = longspan_attention(MODULE, query[:, :, -queries:], key, value, None)
    assert weights is None
    torch.testing.assert_close(out, whole[:, -queries:])


def test_chunked_prefill_equals_one_pass() -> None:
    query, key, value = qkv(2, 4, 1, 12, 8)
    whole, _ = longspan_attention(MODULE, query, key, value, None, scaling=0.2)
    steps = [(0, 5), (5, 9), (9, 10), (10, 12)]
    chunks = [
        longspan_attention(MODULE, query[:, :, a:b], key[:, :, :b], value[:, :, :b], None, scaling=0.2)[0]
        for a, b in steps
    ]
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole)


def test_sequence_parallelism_is_given_everything() -> None:
    seen: dict[str, Any] = {}

    def split(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float
    ) -> Tensor:
        seen.update(module=module, documents=documents, scaling=scaling)
        return query

    # The row is longer than this rank's slice of it.
    documents = Documents((0, 3, 24), sequence_parallel=split)
    query, key, value = qkv(1, 4, 2, 12, 16)
    out, _ = longspan_attention(MODULE, query, key, value, None, documents=documents)
    assert out is query
    assert seen == {"module": MODULE, "documents": documents, "scaling": 0.25}


def test_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="pass no attention_mask"):
        longspan_attention(MODULE, *qkv(1, 2, 2, 4, 4), torch.ones(1, 1, 4, 4))


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention_dropout 0.1 is not supported"):
        longspan_attention(MODULE, *qkv(1, 2, 2, 4, 4), None, dropout=0.1)


def test_several_rows_with_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="one row of tokens, not 2"):
        longspan_attention(MODULE, *qkv(2, 2, 2, 4, 4), None, documents=Documents((0, 4)))


def test_boundaries_of_another_row_are_refused() -> None:
    with pytest.raises(ValueError, match="cu_seqlens end at 5, but the row has 4 tokens"):
        longspan_attention(MODULE, *qkv(1, 2, 2, 4, 4), None, documents=Documents((0, 2, 5)))


def test_cu_seqlens_go_to_the_device_only_for_packed_rows() -> None:
    packed, single = Documents((0, 3, 8)), Documents((0, 8))
    assert packed.on(torch.device("cpu")) is packed
    assert single.on(torch.device("meta")) is single
    moved = packed.on(torch.device("meta")).device_cu_seqlens
    assert moved is not None
    assert (moved.device.type, moved.dtype, moved.shape) == ("meta", torch.int32, (3,))
    assert (packed.num_tokens, packed.lengths) == (8, (3, 5))


@pytest.mark.parametrize(
    ("requested", "device", "installed", "kernel"),
    [
        ("auto", "cpu", True, "sdpa"),
        ("auto", "cuda", True, "flash_attn"),
        ("auto", "cuda", False, "sdpa"),
        ("sdpa", "cuda", True, "sdpa"),
        ("flash_attn", "cuda", True, "flash_attn"),
    ],
)
def test_the_kernel_that_auto_takes(
    monkeypatch: pytest.MonkeyPatch, requested: str, device: str, installed: bool, kernel: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert resolve_kernel(requested, torch.device(device)) == kernel


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", "needs a GPU; train on one"), ("cuda", "is not installed here")]
)
def test_a_kernel_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if device == "cpu" else None)
    with pytest.raises(ConfigError, match=rf"^model\.attention: flash_attn {message}.*, or take auto$"):
        resolve_kernel("flash_attn", torch.device(device))


def varlen_reference(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    """[tokens, heads, head_dim] as the varlen kernels of GPUs have it."""
    rows = tuple(tensor.transpose(0, 1)[None].double() for tensor in (query, key, value))
    return reference(rows[0], rows[1], rows[2], document_mask(tuple(cu_seqlens.tolist())), scale)[0].to(query.dtype)


def test_torch_varlen_gets_its_layout_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs on GPUs only; here a stand-in with the signature of the real one."""
    import torch.nn.attention.varlen as module

    signature = inspect.signature(module.varlen_attn)

    def stand_in(*args: Any, **settings: Any) -> Tensor:
        given_ = signature.bind(*args, **settings)
        given_.apply_defaults()
        call = SimpleNamespace(**given_.arguments)
        assert (call.max_q, call.max_k, tuple(call.window_size)) == (7, 7, (-1, 0))
        assert call.enable_gqa
        assert call.cu_seq_q.equal(call.cu_seq_k)
        return varlen_reference(call.query, call.key, call.value, call.cu_seq_q, call.scale)

    monkeypatch.setattr(module, "varlen_attn", stand_in)
    cu_seqlens = (0, 3, 10, 12)
    documents = Documents(cu_seqlens, device_cu_seqlens=torch.tensor(cu_seqlens, dtype=torch.int32))
    query, key, value = (tensor.bfloat16() for tensor in qkv(1, 4, 2, 12, 8))
    out = document_attention(query, key, value, documents, 0.3)
    expected = reference(query.double(), key.double(), value.double(), document_mask(cu_seqlens), 0.3)
    assert out.equal(expected.bfloat16())
    # The kernel has no float32: that goes document by document.
    exact = document_attention(query.float(), key.float(), value.float(), documents, 0.3)
    torch.testing.assert_close(exact, expected.float())


def test_flash_attn_gets_its_layout_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn runs on GPUs only; here a stand-in with its documented layouts."""
    called = []

    def flash_attn_func(query: Tensor, key: Tensor, value: Tensor, *, softmax_scale: float, causal: bool) -> Tensor:
        called.append("plain")
        assert causal
        rows = tuple(tensor.transpose(1, 2) for tensor in (query, key, value))
        return reference(rows[0], rows[1], rows[2], document_mask((0, query.shape[1])), softmax_scale)

    def flash_attn_varlen_func(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        *,
        softmax_scale: float,
        causal: bool,
    ) -> Tensor:
        called.append("varlen")
        assert causal
        assert (max_seqlen_q, max_seqlen_k) == (9, 9)
        assert cu_seqlens_q.equal(cu_seqlens_k)
        return varlen_reference(query, key, value, cu_seqlens_q, softmax_scale)

    stand_in: Any = ModuleType("flash_attn")
    stand_in.flash_attn_func, stand_in.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    query, key, value = qkv(1, 4, 2, 12, 8)
    for cu_seqlens, where in (((0, 12), None), ((0, 3, 12), torch.tensor([0, 3, 12], dtype=torch.int32))):
        out = document_attention(query, key, value, Documents(cu_seqlens, "flash_attn", None, where), 0.3)
        torch.testing.assert_close(out, reference(query, key, value, document_mask(cu_seqlens), 0.3))
    assert called == ["plain", "varlen"]


def test_transformers_knows_the_name_and_makes_no_mask() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    attention.register()
    attention.register()
    assert AttentionInterface()[attention.NAME] is longspan_attention
    assert AttentionMaskInterface()[attention.NAME](1, q_length=4, kv_length=4) is None
