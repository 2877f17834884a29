"""Shifted sparse attention over packed documents, against the dense mask of each half of the heads, in float64."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from longspan.model.attention import Documents, document_attention, longspan_attention, s2_boundaries

CPU = torch.device("cpu")


def qkv(heads: int, kv_heads: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(1, count, tokens, 4, generator=generator, dtype=torch.float64).requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    )
    return query, key, value


def allowed(cu_seqlens: tuple[int, ...], group: int, shift: int) -> Tensor:
    """Token i sees j <= i of its document and of its group, groups counted from `shift` tokens on."""
    tokens = torch.arange(cu_seqlens[-1])
    document = torch.bucketize(tokens, torch.tensor(cu_seqlens[1:]), right=True)
    number = torch.div(tokens - shift, group, rounding_mode="floor")
    same = (document[:, None] == document[None]) & (number[:, None] == number[None])
    return same & (tokens[:, None] >= tokens[None])


def reference(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: tuple[int, ...], group: int) -> Tensor:
    heads = query.shape[1]
    key, value = (tensor.repeat_interleave(heads // key.shape[1], dim=1) for tensor in (key, value))
    masks = [allowed(cu_seqlens, group, 0 if head < heads // 2 else group // 2) for head in range(heads)]
    scores = (query @ key.transpose(-1, -2) * 0.37).masked_fill(~torch.stack(masks), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@st.composite
def rows(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    """Boundaries of documents and samples in a row of one to three samples, and the tokens of a group."""
    group, groups, samples = draw(st.sampled_from([2, 4, 10])), draw(st.integers(2, 4)), draw(st.integers(1, 3))
    length = group * groups
    cuts = draw(st.sets(st.integers(1, samples * length - 1), max_size=6))
    return tuple(sorted({*cuts, *range(0, samples * length + 1, length)})), group


@given(rows(), st.sampled_from([(2, 2), (4, 2), (4, 4), (12, 4)]), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_each_half_of_the_heads_equals_its_dense_mask(
    row: tuple[tuple[int, ...], int], heads: tuple[int, int], seed: int
) -> None:
    cu_seqlens, group = row
    inputs = qkv(*heads, cu_seqlens[-1], seed)
    out = document_attention(*inputs, Documents((0,), group=group).of_row(cu_seqlens, CPU), 0.37)
    expected = reference(*inputs, cu_seqlens, group)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found, wanted = (torch.autograd.grad((each @ weight).square().sum(), inputs) for each in (out, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_the_first_shifted_group_is_short_and_nothing_wraps_around() -> None:
    assert s2_boundaries((0, 16), 4) == ((0, 4, 8, 12, 16), (0, 2, 6, 10, 14, 16))
    # Documents end where they ended; two samples of 8 tokens are shifted alike.
    assert s2_boundaries((0, 3, 8, 16), 4) == ((0, 3, 4, 8, 12, 16), (0, 2, 3, 6, 8, 10, 14, 16))


@given(rows())
def test_samples_of_a_row_are_cut_as_they_are_alone(row: tuple[tuple[int, ...], int]) -> None:
    cu_seqlens, group = row
    together, tokens = s2_boundaries(cu_seqlens, group), cu_seqlens[-1]
    length = next(n for n in range(2 * group, tokens + 1, group) if set(range(0, tokens + 1, n)) <= {*cu_seqlens})
    for begin, end in pairwise(range(0, cu_seqlens[-1] + 1, length)):
        own = tuple(cut - begin for cut in cu_seqlens if begin <= cut <= end)
        for half, alone in zip(together, s2_boundaries(own, group), strict=True):
            assert tuple(cut - begin for cut in half if begin <= cut <= end) == alone


def test_a_token_of_the_last_group_reaches_every_group_through_the_layers() -> None:
    """Shifted heads carry over the borders, a group a layer; without them nothing crosses."""
    cu_seqlens, group = (0, 16), 4
    reach = [allowed(cu_seqlens, group, shift) for shift in (0, 2)]
    layer = (reach[0] | reach[1]).double()
    assert (torch.linalg.matrix_power(layer, 7)[-1] > 0).all()
    assert torch.equal(torch.linalg.matrix_power(reach[0].double(), 7)[-1] > 0, reach[0][-1])


@pytest.mark.parametrize("kernel", ["sdpa", "flash_attn"])
def test_a_layout_keeps_its_kernel_and_its_documents(kernel: str) -> None:
    layout = Documents((0,), kernel, group=4).of_row((0, 5, 16), CPU)
    assert layout.halves is not None
    assert {layout.kernel, *(half.kernel for half in layout.halves)} == {kernel}
    assert layout.cu_seqlens == (0, 5, 16)
    assert Documents((0,), kernel).of_row((0, 5, 16), CPU) == Documents((0, 5, 16), kernel)


def test_both_halves_have_their_boundaries_on_the_device() -> None:
    layout = Documents((0,), group=4).of_row((0, 8), torch.device("meta"))
    assert layout.device_cu_seqlens is None, "one document needs none"
    assert layout.halves is not None
    found = [half.device_cu_seqlens for half in layout.halves]
    assert [(each.shape, each.dtype, each.device.type) for each in found if each is not None] == [
        ((3,), torch.int32, "meta"),
        ((4,), torch.int32, "meta"),
    ]


def test_evaluation_attends_to_everything() -> None:
    inputs = qkv(4, 2, 16)
    whole, _ = longspan_attention(nn.Module(), *inputs, None, scaling=0.37)
    torch.testing.assert_close(whole, document_attention(*inputs, Documents((0, 16)), 0.37))
    grouped = document_attention(*inputs, Documents((0,), group=4).of_row((0, 16), CPU), 0.37)
    assert (grouped - whole).abs().amax() > 0.01
