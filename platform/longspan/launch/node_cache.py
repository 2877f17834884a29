"""`longspan cache`: what this node keeps of remote models, checkpoints and corpora, and its removal."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from longspan.corpus.chunk_cache import chunk_bytes, clear_chunks
from longspan.storage.cache import LIMIT_VARIABLE, cache_root, clear, copies, limit_bytes


def cache_values() -> dict[str, Any]:
    """The cache as JSON has it."""
    return {
        "folder": cache_root(),
        "limit_bytes": limit_bytes(),
        "chunk_bytes": chunk_bytes(),
        "copies": [asdict(copy) for copy in copies()],
    }


def render_cache() -> Any:
    """The same for the console."""
    from rich.table import Table

    values = cache_values()
    total = sum(copy["num_bytes"] for copy in values["copies"])
    table = Table(title=f"{values['folder']}: {_size(total)} of {_size(values['limit_bytes'])} ({LIMIT_VARIABLE})")
    for title in ("copy of", "size", "last used", ""):
        table.add_column(title, justify="right" if title == "size" else "left")
    for copy in values["copies"]:
        used = datetime.fromtimestamp(copy["last_used"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        table.add_row(
            copy["origin"] or copy["folder"], _size(copy["num_bytes"]), used, "in use" if copy["in_use"] else ""
        )
    if values["chunk_bytes"]:
        table.add_row("chunks of corpora (parallel.shard_cache_bytes)", _size(values["chunk_bytes"]), "", "")
    if not table.row_count:
        table.add_row("empty", "", "", "")
    return table


def clear_cache() -> str:
    """Remove what nobody uses; says what went and what stayed."""
    removed, left = clear()
    chunks = clear_chunks()
    stayed = f"; {len(left)} in use, left" if left else ""
    return f"{len(removed)} {'copy' if len(removed) == 1 else 'copies'} and {chunks:,} bytes of chunks removed{stayed}"


def _size(num_bytes: int) -> str:
    value = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"
