"""SkyLadder's window in the structure of a micro-batch: documents are cut into blocks, positions run on.

`source` and `launch.survey` call it on a finished micro-batch. Causal attention inside blocks of w tokens is what the
paper asks for (2503.15450): token i sees those from floor(i / w) * w to i. The paper's code counts i in the sample also
where documents are masked from each other; here it is counted in the document then, so that the first block of each is
whole.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from longspan.config.attention_window import AttentionWindow
from longspan.feed.batch import MicroBatch, Sample
from longspan.planner.attention_window import block_widths


def limit_attention(
    row: MicroBatch, samples: Sequence[Sample], window: AttentionWindow, global_batch_size: int
) -> MicroBatch:
    """`row` with every segment of `cu_seqlens` cut into blocks as wide as the step of its sample has them.

    The step is the global sample index divided by `global_batch_size`, so a sample is the same in any micro-batch and
    after any restart. Nothing but `cu_seqlens` changes: the last token of a block keeps its target.

    Args:
        row: of `batch.make_micro_batch`.
        samples: those that it was made of.
    """
    size = row.num_tokens // len(samples)
    steps = np.array([sample.index // global_batch_size for sample in samples], np.int64)
    begins, lengths = row.cu_seqlens[:-1].astype(np.int64), np.diff(row.cu_seqlens)
    widths = block_widths(window, size, steps)[begins // size]
    counts = -(-lengths // widths)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    cuts = np.repeat(begins, counts) + number * np.repeat(widths, counts)
    return replace(row, cu_seqlens=np.append(cuts, row.num_tokens).astype(np.int32))
