"""The manifest as a table for the console."""

from typing import TYPE_CHECKING

import numpy as np

from longspan.corpus.bad_rows import describe
from longspan.corpus.manifest import Manifest, SourceInfo

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("source", "docs", "tokens", "out", "mean", "median", "by token", "max", "shards")
_CAPTION = (
    "out: rows left out{kinds}; lengths in tokens, 1k+ is 1,024 to 2,047; by token: half of all tokens are in documents"
    " so long or longer"
)


def render_manifest(manifest: Manifest) -> "Table":
    """One row a source and one of all: documents, tokens, rows left out, lengths and shards.

    Medians and the longest document are given as their histogram's bucket. Half of the documents are
    shorter than the median; half of all tokens lie in documents that are shorter than the median by token.
    """
    from rich.table import Table

    tokens = sum(source.tokens for source in manifest.sources.values())
    size = sum(shard.bytes for shard in manifest.shards)
    table = Table(
        title=f"{manifest.index.rows:,} documents, {tokens:,} tokens, {_size(size)} in {len(manifest.shards):,} shards",
        caption=_CAPTION.format(kinds=_kinds(manifest)),
    )
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title == "source" else "right", overflow="fold")
    shards = [shard.source for shard in manifest.shards]
    rows = {name: (source, shards.count(name)) for name, source in manifest.sources.items()}
    for name, (source, count) in rows.items():
        table.add_row(name, *_cells(source, count))
    if len(rows) > 1:
        table.add_section()
        table.add_row("all", *_cells(_total(manifest), len(shards)))
    return table


def _kinds(manifest: Manifest) -> str:
    """For example " (web: 12 not JSON, 3 short)"."""
    told = [f"{name}: {describe(source.left_out)}" for name, source in manifest.sources.items() if source.left_out]
    return f" ({'; '.join(told)})" if told else ""


def _cells(source: SourceInfo, num_shards: int) -> list[str]:
    return [
        f"{source.documents:,}",
        f"{source.tokens:,}",
        f"{source.skipped:,}",
        f"{source.tokens / source.documents:,.0f}",
        _bucket(_median(source.length_histogram)),
        _bucket(_median(source.token_histogram)),
        _bucket(max(source.length_histogram)),
        f"{num_shards:,}",
    ]


def _median(histogram: dict[int, int]) -> int:
    """The bucket in which the middle one lies."""
    buckets = sorted(histogram)
    ends = np.cumsum([histogram[bucket] for bucket in buckets])
    return buckets[int(np.searchsorted(ends, (ends[-1] + 1) // 2))]


def _bucket(bucket: int) -> str:
    """Bucket 1024 as "1k+"."""
    return f"{bucket // 1024:,}k+" if bucket >= 1024 else f"{bucket}+"


def _total(manifest: Manifest) -> SourceInfo:
    sources = list(manifest.sources.values())
    return SourceInfo(
        documents=sum(source.documents for source in sources),
        tokens=sum(source.tokens for source in sources),
        skipped=sum(source.skipped for source in sources),
        length_histogram=_added([source.length_histogram for source in sources]),
        token_histogram=_added([source.token_histogram for source in sources]),
    )


def _added(histograms: list[dict[int, int]]) -> dict[int, int]:
    buckets = sorted({bucket for histogram in histograms for bucket in histogram})
    return {bucket: sum(histogram.get(bucket, 0) for histogram in histograms) for bucket in buckets}


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"
