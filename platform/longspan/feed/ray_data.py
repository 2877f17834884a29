"""The feed on Ray Data: indices stream in, workers make micro-batches, each data-parallel group gets its own, in order.

Ray Train's default hands every worker other rows and drops some to even them out. Here all ranks of a sequence-parallel
group are given the same stream; only the group's first rank reads it and passes each micro-batch on (`train.exchange`),
so nothing is read twice. A restarted worker group starts at the step of the newest checkpoint: the stream is built anew
from that index.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import DataIterator, Dataset, ExecutionOptions, ExecutionResources
from ray.train import DataConfig

import longspan.errors
from longspan.config.recipe import Recipe
from longspan.errors import LongspanError
from longspan.feed.batch import IGNORE, MicroBatch
from longspan.feed.source import FeedSpec, group_indices, open_source

DATASET = "samples"
_ARRAYS = (
    ("input_ids", pa.int32()),
    ("positions", pa.float32()),
    ("loss_weight", pa.float32()),
    ("cu_seqlens", pa.int32()),
)
"""What travels; labels are the next tokens wherever a target has weight."""
_NO_IDS, _NO_FLOATS = np.zeros(0, np.int32), np.zeros(0, np.float32)
_EMPTY = MicroBatch(-1, _NO_IDS, _NO_FLOATS, _NO_IDS, _NO_FLOATS, _NO_IDS)
_BLOCK_TOKENS = 1 << 20
"""Tokens of a block: enough that Ray's work on a block is little beside ours, some 12 MB in the object store."""
_BLOCK_BYTES = 32 << 20
_MOST_TASKS = 10_000
"""Ray Data plans every task at the start; in a longer run a task makes several blocks, one after the other."""


def make_table(indices: list[int], spec: FeedSpec) -> pa.Table:
    """Micro-batches `indices`, one row each. Runs on Ray Data's workers.

    What is wrong with the data travels as a row with `error`: raised here, Ray Data would try it again and wrap it
    until the cause is hard to find.
    """
    batches: list[MicroBatch] = []
    errors: list[str | None] = [None] * len(indices)
    try:
        batches = open_source(spec).micro_batches(indices)
    except LongspanError:
        # One at a time, so that those before the broken one are still there.
        for place, index in enumerate(indices):
            try:
                batches.append(open_source(spec).micro_batch(index))
            except LongspanError as error:
                batches.append(_EMPTY)
                errors[place] = f"{type(error).__name__}: {error}"
    columns = {name: _lists([getattr(batch, name) for batch in batches], kind) for name, kind in _ARRAYS}
    samples = pa.array([batch.first_sample for batch in batches], pa.int64())
    return pa.table({"first_sample": samples, "error": pa.array(errors, pa.string()), **columns})


def _lists(arrays: list[NDArray[Any]], kind: pa.DataType) -> pa.LargeListArray:
    """One list an array, over one buffer."""
    offsets = np.concatenate([[0], np.cumsum([array.size for array in arrays], dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays), kind))


def read_table(table: pa.Table) -> Iterator[MicroBatch]:
    """The rows of `table` as micro-batches, views of its buffers.

    Raises:
        LongspanError: the one that its feed worker met, as the class that it was, in its row's place.
    """
    first_samples, errors = table.column("first_sample").to_pylist(), table.column("error").to_pylist()
    columns = [table.column(name).combine_chunks() for name, _ in _ARRAYS]
    values = [column.values.to_numpy() for column in columns]
    offsets = [column.offsets.to_numpy() for column in columns]
    for row, (first_sample, failure) in enumerate(zip(first_samples, errors, strict=True)):
        if failure is not None:
            kind, _, message = failure.partition(": ")
            raise getattr(longspan.errors, kind, LongspanError)(message)
        input_ids, positions, loss_weight, cu_seqlens = (
            array[begin[row] : begin[row + 1]] for array, begin in zip(values, offsets, strict=True)
        )
        labels = np.full(input_ids.size, IGNORE, np.int32)
        np.copyto(labels[:-1], input_ids[1:], where=loss_weight[:-1] != 0)
        yield MicroBatch(first_sample, input_ids, positions, labels, loss_weight, cu_seqlens)


def group_dataset(spec: FeedSpec, first_step: int, num_steps: int, group: int, groups: int) -> Dataset:
    """Lazy stream of the micro-batches of one data-parallel group, in the order of the steps."""
    per_step = spec.micro_batches_per_step // groups
    count = (num_steps - first_step) * per_step
    per_block = max(1, _BLOCK_TOKENS // (spec.sample_length * spec.micro_batch_size))

    def to_global(table: pa.Table) -> Iterator[pa.Table]:
        local = table.column("id").to_numpy()
        steps = first_step + local // per_step
        starts = np.array([group_indices(spec, int(step), group, groups).start for step in steps], dtype=np.int64)
        indices = (starts + local % per_step).tolist()
        for begin in range(0, len(indices), per_block):
            yield make_table(indices[begin : begin + per_block], spec)

    tasks = min(_MOST_TASKS, max(1, -(-count // per_block)))
    dataset = ray.data.range(count, override_num_blocks=tasks).map_batches(
        to_global, batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    )
    dataset.context.target_max_block_size = _BLOCK_BYTES
    dataset.context.execution_options = ExecutionOptions(preserve_order=True)
    dataset.context.enable_progress_bars = False
    return dataset


def blocks_ahead(recipe: Recipe) -> int:
    """Blocks that hold `parallel.prefetch_batches` micro-batches, at least 1."""
    tokens = recipe.parallel.prefetch_batches * recipe.data.sample_length * recipe.train.micro_batch_size
    return max(1, -(-tokens // _BLOCK_TOKENS))


class SequenceParallelDataConfig(DataConfig):
    """Gives rank r the stream of data-parallel group r // sequence_parallel, from the first step that is not yet
    trained.
    """

    def __init__(
        self,
        spec: FeedSpec,
        sequence_parallel: int,
        num_steps: int,
        first_step: Callable[[], int],
        feed_workers: int,
    ) -> None:
        super().__init__(datasets_to_split="all")
        self._spec = spec
        self._sequence_parallel = sequence_parallel
        self._num_steps = num_steps
        self._first_step = first_step
        self._feed_workers = feed_workers

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, DataIterator]]:
        """One list entry a rank; the dataset handed in is a placeholder (Ray Train wants one to call this at all)."""
        first_step = self._first_step()
        groups = world_size // self._sequence_parallel
        iterators = []
        for group in range(groups):
            dataset = group_dataset(self._spec, first_step, self._num_steps, group, groups)
            dataset.context.execution_options = ExecutionOptions(
                preserve_order=True,
                resource_limits=ExecutionResources(cpu=max(1, self._feed_workers // groups)),
            )
            iterators.extend(dataset.streaming_split(1))
        return [{DATASET: iterators[rank // self._sequence_parallel]} for rank in range(world_size)]


def stream(iterator: DataIterator, prefetch: int) -> Iterator[MicroBatch]:
    """Micro-batches of the group's stream in order.

    Args:
        prefetch: blocks fetched ahead of the one in use; each holds several micro-batches unless they are large.
    """
    # None is a block as it is; Ray's annotation leaves it out.
    whole: Any = None
    for table in iterator.iter_batches(batch_size=whole, batch_format="pyarrow", prefetch_batches=prefetch):
        yield from read_table(table)
