"""Every divisibility rule refuses with the fields, the numbers, and values that would work."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import ConfigError, TopologyError
from longspan.topology import (
    check_attention_heads,
    check_global_batch,
    check_head_halves,
    check_micro_batch_tokens,
    check_sequence_length,
    check_world_size,
)

REFUSALS = [
    (
        check_world_size,
        (6, 4),
        (
            "parallel.num_workers 6 is not a multiple of parallel.sequence_parallel 4; "
            "use 4 or 8 workers, or sequence_parallel 3 or 6"
        ),
    ),
    (
        check_world_size,
        (2, 8),
        (
            "parallel.num_workers 2 is not a multiple of parallel.sequence_parallel 8; "
            "use 8 workers, or sequence_parallel 2"
        ),
    ),
    (
        check_attention_heads,
        (12, 12, 8),
        "parallel.sequence_parallel 8 does not divide the model's num_attention_heads 12; use 6 or 12",
    ),
    (
        check_attention_heads,
        (32, 8, 64),
        "parallel.sequence_parallel 64 does not divide the model's num_attention_heads 32; use 32",
    ),
    (
        check_attention_heads,
        (24, 6, 4),
        "parallel.sequence_parallel 4 and the model's num_key_value_heads 6 do not divide one another; use 3 or 6",
    ),
    (
        check_micro_batch_tokens,
        (1, 23_999, 8),
        (
            "train.micro_batch_size 1 * data.sample_length 23999 = 23999 tokens is not a multiple of "
            "parallel.sequence_parallel 8; use a sample_length of 23992 or 24000"
        ),
    ),
    (
        check_micro_batch_tokens,
        (2, 3, 8),
        (
            "train.micro_batch_size 2 * data.sample_length 3 = 6 tokens is not a multiple of "
            "parallel.sequence_parallel 8; use a sample_length of 4"
        ),
    ),
    (
        check_global_batch,
        (100, 2, 8),
        (
            "train.global_batch_size 100 is not a multiple of train.micro_batch_size 2 * 8 data-parallel ranks = 16; "
            "use a global_batch_size of 96 or 112"
        ),
    ),
    (
        check_head_halves,
        (12, 3, 1),
        "model.attention_pattern: the model's num_key_value_heads 3 do not halve; leave the pattern out",
    ),
    (
        check_head_halves,
        (12, 6, 3),
        (
            "model.attention_pattern: half of the heads do not go to whole ranks under parallel.sequence_parallel 3;"
            " use an even one"
        ),
    ),
    (check_sequence_length, (10, 4), "10 tokens do not split over parallel.sequence_parallel 4 ranks; use 8 or 12"),
]


@pytest.mark.parametrize(("check", "values", "message"), REFUSALS)
def test_refusal_names_fields_numbers_and_the_mend(check, values: tuple[int, ...], message: str) -> None:
    with pytest.raises(TopologyError, match=re.escape(message)) as refusal:
        check(*values)
    assert isinstance(refusal.value, ConfigError)


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (check_world_size, (8, 4)),
        (check_world_size, (1, 1)),
        (check_attention_heads, (32, 8, 8)),
        (check_attention_heads, (32, 8, 16)),
        (check_attention_heads, (32, 8, 2)),
        (check_attention_heads, (28, 4, 7 * 4)),
        (check_micro_batch_tokens, (1, 24_000, 8)),
        (check_micro_batch_tokens, (4, 3, 4)),
        (check_global_batch, (96, 1, 8)),
        (check_sequence_length, (24_000, 8)),
        (check_head_halves, (32, 8, 1)),
        (check_head_halves, (32, 2, 8)),
    ],
)
def test_accepts_what_divides(check, values: tuple[int, ...]) -> None:
    check(*values)


@pytest.mark.parametrize(
    ("check", "values", "field"),
    [
        (check_world_size, (0, 1), "parallel.num_workers"),
        (check_world_size, (1, 0), "parallel.sequence_parallel"),
        (check_attention_heads, (32, 8, 0), "parallel.sequence_parallel"),
        (check_micro_batch_tokens, (0, 8, 1), "train.micro_batch_size"),
        (check_micro_batch_tokens, (1, 0, 1), "data.sample_length"),
        (check_micro_batch_tokens, (1, 8, -1), "parallel.sequence_parallel"),
        (check_global_batch, (0, 1, 1), "train.global_batch_size"),
        (check_global_batch, (1, 0, 1), "train.micro_batch_size"),
        (check_global_batch, (1, 1, 0), "the data-parallel size"),
    ],
)
def test_rejects_values_below_one(check, values: tuple[int, ...], field: str) -> None:
    with pytest.raises(TopologyError, match=re.escape(field) + r".* is -?\d; it must be 1 or more"):
        check(*values)


def proposals(error: TopologyError) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(error).rsplit(" use ", 1)[-1])]


@given(st.integers(1, 8), st.integers(1, 5000), st.integers(1, 64))
def test_proposed_sample_lengths_work(micro_batch_size: int, sample_length: int, sequence_parallel: int) -> None:
    try:
        check_micro_batch_tokens(micro_batch_size, sample_length, sequence_parallel)
    except TopologyError as error:
        for length in proposals(error):
            check_micro_batch_tokens(micro_batch_size, length, sequence_parallel)


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 80))
def test_proposed_degrees_work(key_value_heads: int, group: int, sequence_parallel: int) -> None:
    heads = key_value_heads * group
    try:
        check_attention_heads(heads, key_value_heads, sequence_parallel)
    except TopologyError as error:
        for degree in proposals(error):
            check_attention_heads(heads, key_value_heads, degree)
