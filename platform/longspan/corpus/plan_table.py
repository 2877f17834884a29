"""The sample plan as a Parquet table in the run folder: written once by the driver, read in slices by the feed.

One row a sample, so that any global sample index is found without reading what comes before it.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.errors import DataError
from longspan.sampling.plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROW_GROUP_ROWS = 4096
_CACHED_ROW_GROUPS = 16
_PREFIX = "longspan."
"""Of the keys in the schema's metadata that are ours; Arrow keeps one of its own beside them."""

_lock = threading.Lock()
_footers: "dict[str, pq.FileMetaData]" = {}
_row_groups: "OrderedDict[tuple[str, int], pa.Table]" = OrderedDict()


class PlanRow(NamedTuple):
    """One sample: tokens [starts[i], starts[i] + lengths[i]) of each documents[i], one after the other.

    Attributes:
        sample: global sample index.
        source: name of the source that all of it comes from.
        documents, starts, lengths: int32 [num_spans].
    """

    sample: int
    source: str
    documents: NDArray[np.int32]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]


def write_plan(uri: str, plan: Plan, metadata: Mapping[str, str]) -> None:
    """Write the plan to the Parquet file `uri` in one step, with `metadata` and its "fingerprint" in the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema().with_metadata(
        {_PREFIX + key: value for key, value in {**metadata, "fingerprint": plan.fingerprint}.items()}
    )
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for begin in range(0, plan.num_samples, _ROW_GROUP_ROWS):
            end = min(begin + _ROW_GROUP_ROWS, plan.num_samples)
            writer.write_table(_table(plan, begin, end, schema), row_group_size=_ROW_GROUP_ROWS)
    storage.write_bytes(uri, bytes(sink.getvalue()))
    _forget(storage.absolute(uri))


def read_plan_metadata(uri: str) -> dict[str, str]:
    """What `write_plan` was given, with "fingerprint" and "num_samples"; read anew at every call.

    Raises:
        DataError: there is no plan there, or it is not one.
        StorageError: the store could not be read.
    """
    uri = storage.absolute(uri)
    _forget(uri)
    footer = _footer(uri)
    found = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()}
    own = {key.removeprefix(_PREFIX): value for key, value in found.items() if key.startswith(_PREFIX)}
    return {**own, "num_samples": str(footer.num_rows)}


def read_plan_rows(uri: str, start: int, stop: int) -> list[PlanRow]:
    """Rows [start, stop) of the plan; only the row groups they lie in are fetched, and the last few are kept.

    Raises:
        DataError: there is no plan there, it is not one or is damaged, or it has fewer rows.
        StorageError: the store could not be read.
    """
    uri = storage.absolute(uri)
    footer = _footer(uri)
    if not 0 <= start <= stop <= footer.num_rows:
        raise DataError(f"{uri}: rows {start} to {stop} asked for, but the plan has {footer.num_rows} samples")
    rows: list[PlanRow] = []
    for group in range(start // _ROW_GROUP_ROWS, -(-stop // _ROW_GROUP_ROWS) if stop > start else 0):
        first = group * _ROW_GROUP_ROWS
        table = _row_group(uri, group)
        rows.extend(_rows(table.slice(max(start - first, 0), stop - max(start, first)), uri))
    if [row.sample for row in rows] != list(range(start, stop)):
        raise DataError(f"{uri}: rows {start} to {stop} do not hold these samples; write the plan again")
    return rows


def _schema() -> "pa.Schema":
    import pyarrow as pa

    lists = pa.list_(pa.field("element", pa.int32(), nullable=False))
    return pa.schema(
        [
            pa.field("sample", pa.int64(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("documents", lists, nullable=False),
            pa.field("starts", lists, nullable=False),
            pa.field("lengths", lists, nullable=False),
        ]
    )


def _table(plan: Plan, begin: int, end: int, schema: "pa.Schema") -> "pa.Table":
    """Samples [begin, end) as a table."""
    import pyarrow as pa

    span = slice(plan.span_offsets[begin], plan.span_offsets[end])
    offsets = pa.array((plan.span_offsets[begin : end + 1] - plan.span_offsets[begin]).astype(np.int32))
    names = pa.array(plan.source_names, pa.string())
    lists = [
        pa.ListArray.from_arrays(offsets, column[span], type=schema.field("documents").type)
        for column in (plan.span_document, plan.span_start, plan.span_length)
    ]
    source = names.take(pa.array(plan.source[begin:end]))
    return pa.Table.from_arrays([pa.array(np.arange(begin, end, dtype=np.int64)), source, *lists], schema=schema)


def _rows(table: "pa.Table", uri: str) -> list[PlanRow]:
    lists = [table[name].combine_chunks() for name in ("documents", "starts", "lengths")]
    # `values` ignores where the slice begins, `offsets` does not: together they are right for any slice.
    values = [column.values.to_numpy() for column in lists]
    offsets = [column.offsets.to_numpy() for column in lists]
    if not all(np.array_equal(np.diff(offsets[0]), np.diff(other)) for other in offsets[1:]):
        raise DataError(f"{uri}: a sample has lists of unequal length; write the plan again")
    samples, sources = table["sample"].to_pylist(), table["source"].to_pylist()
    return [
        PlanRow(samples[i], sources[i], *(v[o[i] : o[i + 1]] for v, o in zip(values, offsets, strict=True)))
        for i in range(table.num_rows)
    ]


def _footer(uri: str) -> "pq.FileMetaData":
    """The file's footer, kept: it says where every row group lies."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _lock:
        if uri in _footers:
            return _footers[uri]
    try:
        with storage.open_input(uri) as file:
            footer = pq.read_metadata(file)
    except storage.NotFoundError:
        raise DataError(f"{uri}: there is no sample plan; the run's driver writes it") from None
    except pa.ArrowException as error:
        raise DataError(f"{uri}: not a readable Parquet file ({' '.join(str(error).split())})") from None
    if footer.schema.to_arrow_schema().remove_metadata() != _schema():
        raise DataError(f"{uri}: columns {footer.schema.names}, not those of a sample plan")
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if any(size != _ROW_GROUP_ROWS for size in sizes[:-1]) or max(sizes, default=0) > _ROW_GROUP_ROWS:
        raise DataError(
            f"{uri}: row groups of {sorted(set(sizes))} rows, not of {_ROW_GROUP_ROWS}; write the plan again"
        )
    with _lock:
        _footers[uri] = footer
    return footer


def _row_group(uri: str, group: int) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _lock:
        if (uri, group) in _row_groups:
            _row_groups.move_to_end((uri, group))
            return _row_groups[uri, group]
    try:
        with storage.open_input(uri) as file:
            reader = pq.ParquetFile(file, metadata=_footer(uri), page_checksum_verification=True, pre_buffer=False)
            table = reader.read_row_group(group, use_threads=False)
    except storage.NotFoundError:
        raise DataError(f"{uri}: the sample plan is gone; the run's driver writes it") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri}: row group {group} is damaged ({' '.join(str(error).split())})") from None
    with _lock:
        _row_groups[uri, group] = table
        while len(_row_groups) > _CACHED_ROW_GROUPS:
            _row_groups.popitem(last=False)
    return table


def _forget(uri: str) -> None:
    with _lock:
        _footers.pop(uri, None)
        for key in [key for key in _row_groups if key[0] == uri]:
            del _row_groups[key]
