"""Every divisibility rule of the parallel layout, checked before anything starts.

Called by `planner`, `launch` (doctor) and `train`. Each function raises `TopologyError` with the recipe's fields, the
numbers, and the nearest values that would work.
"""

import math

from longspan.errors import TopologyError


def check_world_size(num_workers: int, sequence_parallel: int) -> None:
    """The workers must form whole sequence-parallel groups.

    Raises:
        TopologyError: num_workers is not a positive multiple of sequence_parallel, or either is below 1.
    """
    _check_positive("parallel.num_workers", num_workers)
    _check_positive("parallel.sequence_parallel", sequence_parallel)
    if num_workers % sequence_parallel:
        raise TopologyError(
            f"parallel.num_workers {num_workers} is not a multiple of parallel.sequence_parallel {sequence_parallel}; "
            f"use {_multiples(num_workers, sequence_parallel)} workers, "
            f"or sequence_parallel {_nearest(sequence_parallel, _divisors(num_workers))}"
        )


def check_attention_heads(num_attention_heads: int, num_key_value_heads: int, sequence_parallel: int) -> None:
    """Ulysses gives each rank whole heads: query heads must divide, key-value heads divide or be replicated evenly.

    Raises:
        TopologyError: sequence_parallel does not divide num_attention_heads, or neither of num_key_value_heads and
            sequence_parallel divides the other.
    """
    _check_positive("parallel.sequence_parallel", sequence_parallel)
    fits = [
        degree
        for degree in _divisors(num_attention_heads)
        if num_key_value_heads % degree == 0 or degree % num_key_value_heads == 0
    ]
    if num_attention_heads % sequence_parallel:
        raise TopologyError(
            f"parallel.sequence_parallel {sequence_parallel} does not divide the model's num_attention_heads "
            f"{num_attention_heads}; use {_nearest(sequence_parallel, fits)}"
        )
    if sequence_parallel not in fits:
        raise TopologyError(
            f"parallel.sequence_parallel {sequence_parallel} and the model's num_key_value_heads "
            f"{num_key_value_heads} do not divide one another; use {_nearest(sequence_parallel, fits)}"
        )


def check_head_halves(num_attention_heads: int, num_key_value_heads: int, sequence_parallel: int) -> None:
    """Shifted sparse attention treats the halves of the heads in two ways, and a rank has its share of them in order.

    Raises:
        TopologyError: the heads do not halve, or a rank would have heads of both halves beside others of one half.
    """
    for name, heads in (("num_attention_heads", num_attention_heads), ("num_key_value_heads", num_key_value_heads)):
        if heads % 2:
            raise TopologyError(
                f"model.attention_pattern: the model's {name} {heads} do not halve; leave the pattern out"
            )
    if sequence_parallel > 1 and sequence_parallel % 2:
        raise TopologyError(
            f"model.attention_pattern: half of the heads do not go to whole ranks under parallel.sequence_parallel"
            f" {sequence_parallel}; use an even one"
        )


def check_micro_batch_tokens(micro_batch_size: int, sample_length: int, sequence_parallel: int) -> None:
    """The tokens of a micro-batch are split evenly over the sequence-parallel ranks.

    Raises:
        TopologyError: micro_batch_size * sample_length is not a multiple of sequence_parallel, or a value is below 1.
    """
    _check_positive("train.micro_batch_size", micro_batch_size)
    _check_positive("data.sample_length", sample_length)
    _check_positive("parallel.sequence_parallel", sequence_parallel)
    tokens = micro_batch_size * sample_length
    if tokens % sequence_parallel:
        step = sequence_parallel // math.gcd(micro_batch_size, sequence_parallel)
        raise TopologyError(
            f"train.micro_batch_size {micro_batch_size} * data.sample_length {sample_length} = {tokens} tokens is not "
            f"a multiple of parallel.sequence_parallel {sequence_parallel}; "
            f"use a sample_length of {_multiples(sample_length, step)}"
        )


def check_global_batch(global_batch_size: int, micro_batch_size: int, data_parallel: int) -> None:
    """A step is a whole number of micro-batches on every data-parallel rank.

    Raises:
        TopologyError: global_batch_size is not a multiple of micro_batch_size * data_parallel, or a value is below 1.
    """
    _check_positive("train.global_batch_size", global_batch_size)
    _check_positive("train.micro_batch_size", micro_batch_size)
    _check_positive("the data-parallel size (parallel.num_workers / parallel.sequence_parallel)", data_parallel)
    at_once = micro_batch_size * data_parallel
    if global_batch_size % at_once:
        raise TopologyError(
            f"train.global_batch_size {global_batch_size} is not a multiple of train.micro_batch_size "
            f"{micro_batch_size} * {data_parallel} data-parallel ranks = {at_once}; "
            f"use a global_batch_size of {_multiples(global_batch_size, at_once)}"
        )


def check_sequence_length(num_tokens: int, sequence_parallel: int) -> None:
    """A row of tokens must split evenly over the sequence-parallel ranks (the last line of defence, in `rank_slice`).

    Raises:
        TopologyError: num_tokens is not a multiple of sequence_parallel.
    """
    if num_tokens % sequence_parallel:
        raise TopologyError(
            f"{num_tokens} tokens do not split over parallel.sequence_parallel {sequence_parallel} ranks; "
            f"use {_multiples(num_tokens, sequence_parallel)} tokens"
        )


def _check_positive(field: str, value: int) -> None:
    if value < 1:
        raise TopologyError(f"{field} is {value}; it must be 1 or more")


def _multiples(value: int, step: int) -> str:
    """The nearest positive multiples of `step` around `value`, as "below or above"."""
    below = value // step * step
    return f"{below} or {below + step}" if below else str(step)


def _nearest(value: int, candidates: list[int]) -> str:
    """The candidates just below and just above `value`."""
    below = [candidate for candidate in candidates if candidate < value]
    above = [candidate for candidate in candidates if candidate > value]
    return " or ".join(str(candidate) for candidate in (*below[-1:], *above[:1]))


def _divisors(value: int) -> list[int]:
    return [candidate for candidate in range(1, value + 1) if value % candidate == 0]
