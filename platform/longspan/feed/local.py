"""The feed of a run in this process: a few micro-batches made ahead, on threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from longspan.feed.batch import MicroBatch
from longspan.feed.source import FeedSpec, group_indices, open_source

_MAX_THREADS = 4


def local_feed(spec: FeedSpec, first_step: int, num_steps: int, prefetch: int) -> Iterator[MicroBatch]:
    """Micro-batches of steps [first_step, num_steps) in order, up to `prefetch` of them made ahead.

    Where the run is, only the consumer knows: what was made ahead is dropped when the iterator is closed, and a feed
    from the consumer's step makes it again.
    """
    source = open_source(spec)
    indices = (index for step in range(first_step, num_steps) for index in group_indices(spec, step, 0, 1))
    if prefetch == 0:
        yield from map(source.micro_batch, indices)
        return
    pool = ThreadPoolExecutor(min(_MAX_THREADS, prefetch), thread_name_prefix="longspan-feed")
    try:
        pending: deque[Future[MicroBatch]] = deque()
        for index in indices:
            pending.append(pool.submit(source.micro_batch, index))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Not waited for: a fetch from a store that does not answer may take minutes.
        pool.shutdown(wait=False, cancel_futures=True)
