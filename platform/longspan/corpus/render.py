"""The manifest as a table for the console."""

from typing import TYPE_CHECKING

from longspan.corpus.manifest import Manifest

if TYPE_CHECKING:
    from rich.table import Table


def render_manifest(manifest: Manifest) -> "Table":
    """One row a source: documents, tokens, mean and range of length."""
    from rich.table import Table

    table = Table(title=f"{manifest.index.documents:,} documents, {len(manifest.shards)} shards")
    for title in ("source", "documents", "tokens", "mean length", "lengths"):
        table.add_column(title, justify="left" if title == "source" else "right")
    for name, source in manifest.sources.items():
        buckets = sorted(source.length_histogram)
        table.add_row(
            name,
            f"{source.documents:,}",
            f"{source.tokens:,}",
            f"{source.tokens / source.documents:,.0f}",
            f"{buckets[0]:,} to {2 * buckets[-1] - 1:,}",
        )
    return table
