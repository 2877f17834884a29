"""The sample plan as a folder of Parquet part files in the run folder: written by the driver, read by the feed.

Every part holds equally many samples and `plan.json` has the digest of each, so the file of any global sample index is
known without looking at the others, and neither writer nor reader ever holds more than a few parts.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.errors import DataError
from longspan.sampling.plan import PlanPart

if TYPE_CHECKING:
    import pyarrow as pa

INFO_FILE = "plan.json"
_VERSION = 3
"""Of the format, and of the samples that the same recipe and corpus give: it rises when `sampling` deals otherwise."""
_DIGEST_BYTES = 16
_KEPT_PARTS = 4
_FETCHES = 4
_REWRITE = "remove the plan's folder and run the same command again, which makes it anew"


class PlanRow(NamedTuple):
    """One sample: its spans of the corpus' global token stream, one after the other.

    Attributes:
        sample: global sample index.
        source: name of the source that all of it comes from.
        epoch: epoch (from 0) of that source in which the sample begins.
        documents: int64 [num_spans], document number of each span.
        offsets: int64 [num_spans], first token of each in the global token stream.
        lengths: int32 [num_spans], tokens; together at most the plan's sample_length.
    """

    sample: int
    source: str
    epoch: int
    documents: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class PlanInfo:
    """What `plan.json` says.

    Attributes:
        num_samples: samples of the plan.
        part_samples: samples of every part file but the last.
        sample_length: tokens of a sample, padding included.
        source_names: names of the corpus' sources.
        metadata: what the writer was given ("manifest": fingerprint of the corpus, "recipe": of the recipe).
        part_bytes: int64 [num_parts], size of each part file.
        part_digest: uint8 [num_parts, 16], xxh3-128 of each.
        fingerprint: hash of all this, and through the digests of every row.
    """

    num_samples: int
    part_samples: int
    sample_length: int
    source_names: tuple[str, ...]
    metadata: dict[str, str]
    part_bytes: NDArray[np.int64] = field(repr=False)
    part_digest: NDArray[np.uint8] = field(repr=False)
    fingerprint: str

    @property
    def num_parts(self) -> int:
        return self.part_bytes.size


def part_name(number: int) -> str:
    """Name of a part file in the plan's folder."""
    return f"part-{number:08d}.parquet"


def write_plan(
    uri: str,
    parts: Iterable[PlanPart],
    source_names: Iterable[str],
    sample_length: int,
    num_samples: int,
    metadata: Mapping[str, str],
) -> PlanInfo:
    """Write the parts to the folder `uri`, one uploaded while the next is made, and `plan.json` when all are there.

    The same plan gives the same bytes. A plan that is there is made invalid first.

    Args:
        parts: in order; all but the last of one size (`sampling.plan.plan_parts`).
        num_samples: of all parts together.
        metadata: kept with the plan.

    Raises:
        DataError: the parts do not follow each other or do not add up to `num_samples`.
        StorageError: the store could not be written.
    """
    names = tuple(source_names)
    sizes: list[int] = []
    digests: list[str] = []
    part_samples, done = 0, 0
    storage.delete(storage.join(uri, INFO_FILE))
    with ThreadPoolExecutor(1, thread_name_prefix="longspan-plan") as pool:
        upload: Future[None] | None = None
        for part in parts:
            part_samples = part_samples or part.num_samples
            if part.first_sample != done or part.num_samples > part_samples or done % part_samples:
                raise DataError(f"{uri}: a part of {part.num_samples} samples from {part.first_sample} on after {done}")
            data = _part_bytes(part, names)
            if upload is not None:
                upload.result()
            upload = pool.submit(storage.write_bytes, storage.join(uri, part_name(len(sizes))), data)
            sizes.append(len(data))
            digests.append(storage.digest_bytes(data).partition(":")[2])
            done += part.num_samples
        if upload is not None:
            upload.result()
    if done != num_samples or not sizes:
        raise DataError(f"{uri}: the parts hold {done} samples, not {num_samples}")
    values = {
        "version": _VERSION,
        "num_samples": num_samples,
        "part_samples": part_samples,
        "sample_length": sample_length,
        "source_names": list(names),
        "metadata": dict(sorted(metadata.items())),
        "part_bytes": sizes,
        "part_digests": "".join(digests),
    }
    storage.write_bytes(storage.join(uri, INFO_FILE), _info_bytes(values))
    return _info(values)


def read_plan_info(uri: str) -> PlanInfo:
    """What the plan in the folder `uri` is; some 60 bytes of plan.json a part, so quick for any plan.

    Raises:
        DataError: there is no plan there, or its `plan.json` is damaged.
        StorageError: the store could not be read.
    """
    where = storage.join(uri, INFO_FILE)
    wrong = ""
    for _ in range(_FETCHES):
        try:
            data = storage.read_bytes(where)
        except storage.NotFoundError:
            raise DataError(f"{where}: there is no sample plan; the run's driver writes it") from None
        try:
            values = json.loads(data)
        except ValueError as error:
            wrong = f"not valid JSON ({error})"
            continue
        version = values.get("version") if isinstance(values, dict) else None
        if isinstance(version, int) and version != _VERSION:
            raise DataError(
                f"{where}: a sample plan of version {version}, made by another longspan; this one makes version"
                f" {_VERSION}, with other samples. Resume the run with the longspan that began it, or give a new run"
                " another output"
            )
        if not isinstance(version, int):
            wrong = "not a sample plan"
        elif values.pop("fingerprint", None) != _fingerprint(values):
            wrong = "its content does not have its fingerprint, so it is damaged"
        else:
            return _info(values)
    raise DataError(f"{where}: {wrong}; {_REWRITE}")


class PlanReader:
    """Rows of a plan, by the global sample index. Keeps the parts used last. Safe in threads."""

    def __init__(self, uri: str) -> None:
        """Raises as `read_plan_info`."""
        self._uri = uri
        self.info = read_plan_info(uri)
        self._kept: OrderedDict[int, PlanPart] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, start: int, stop: int) -> list[PlanRow]:
        """Rows [start, stop). Only the part files that they lie in are fetched, whole, and proven by their digests.

        Raises:
            DataError: the plan has fewer rows, or a part file is missing or damaged; names it.
            StorageError: the store could not be read.
        """
        info = self.info
        if not 0 <= start <= stop <= info.num_samples:
            raise DataError(
                f"{self._uri}: rows {start} to {stop} asked for, but the plan has {info.num_samples} samples"
            )
        rows: list[PlanRow] = []
        while start < stop:
            number = start // info.part_samples
            end = min(stop, (number + 1) * info.part_samples)
            rows += self._rows_of(self._part(number), start, end)
            start = end
        return rows

    def _rows_of(self, part: PlanPart, start: int, stop: int) -> list[PlanRow]:
        first = part.first_sample
        ends = part.span_offsets[start - first : stop - first + 1].tolist()
        rows = []
        for sample, begin, end in zip(range(start, stop), ends[:-1], ends[1:], strict=True):
            spans = slice(begin, end)
            source = self.info.source_names[part.source[sample - first]]
            columns = (part.document[spans], part.offset[spans], part.length[spans])
            rows.append(PlanRow(sample, source, int(part.epoch[sample - first]), *columns))
        return rows

    def _part(self, number: int) -> PlanPart:
        # The lock is held while a part is fetched: threads go through the plan in order, so they want the same one.
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            part = _read_part(storage.join(self._uri, part_name(number)), self.info, number)
            self._kept[number] = part
            while len(self._kept) > _KEPT_PARTS:
                self._kept.popitem(last=False)
            return part


def _info_bytes(values: dict[str, Any]) -> bytes:
    # One line a field: a list of numbers over lines of their own would make most of the file.
    full = {"fingerprint": _fingerprint(values), **values}
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in full.items())
    return f"{{\n{lines}\n}}\n".encode()


def _fingerprint(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _info(values: dict[str, Any]) -> PlanInfo:
    return PlanInfo(
        num_samples=values["num_samples"],
        part_samples=values["part_samples"],
        sample_length=values["sample_length"],
        source_names=tuple(values["source_names"]),
        metadata=values["metadata"],
        part_bytes=np.array(values["part_bytes"], np.int64),
        part_digest=np.frombuffer(bytes.fromhex(values["part_digests"]), np.uint8).reshape(-1, _DIGEST_BYTES),
        fingerprint=_fingerprint(values),
    )


def _schema() -> "pa.Schema":
    import pyarrow as pa

    def column(name: str, kind: "pa.DataType") -> "pa.Field":
        return pa.field(name, kind, nullable=False)

    longs, ints = (pa.list_(column("element", kind)) for kind in (pa.int64(), pa.int32()))
    return pa.schema(
        [
            column("sample", pa.int64()),
            column("source", pa.string()),
            column("epoch", pa.int32()),
            column("documents", longs),
            column("offsets", longs),
            column("lengths", ints),
        ]
    )


def _part_bytes(part: PlanPart, source_names: tuple[str, ...]) -> "pa.Buffer":
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    offsets = pa.array(part.span_offsets.astype(np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, values, type=schema.field(name).type)
        for name, values in (("documents", part.document), ("offsets", part.offset), ("lengths", part.length))
    ]
    source = pa.DictionaryArray.from_arrays(part.source, pa.array(source_names, pa.string())).cast(pa.string())
    sample = np.arange(part.first_sample, part.first_sample + part.num_samples, dtype=np.int64)
    table = pa.Table.from_arrays([pa.array(sample), source, pa.array(part.epoch), *lists], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["source"], row_group_size=max(1, part.num_samples))
    return sink.getvalue()


def _read_part(where: str, info: PlanInfo, number: int) -> PlanPart:
    """The part file of this number, as it was written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = _proven(where, int(info.part_bytes[number]), info.part_digest[number].tobytes().hex())
    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False).combine_chunks()
    except pa.ArrowException as error:
        raise DataError(f"{where}: not a readable Parquet file ({' '.join(str(error).split())}); {_REWRITE}") from None
    first = number * info.part_samples
    rows = min(info.part_samples, info.num_samples - first)
    if table.schema != _schema() or table["sample"].to_pylist() != list(range(first, first + rows)):
        raise DataError(f"{where}: not the part of a plan with samples {first} to {first + rows}; {_REWRITE}")
    # Made by this module, as the digest proves, so the lists fit together and the names are known.
    lists = [table[name].combine_chunks() for name in ("documents", "offsets", "lengths")]
    encoded = table["source"].combine_chunks().dictionary_encode()
    places = [info.source_names.index(name) for name in encoded.dictionary.to_pylist()]
    return PlanPart(
        first_sample=first,
        source=np.array(places, np.int16)[encoded.indices.to_numpy()],
        span_offsets=lists[0].offsets.to_numpy().astype(np.int64),
        document=lists[0].values.to_numpy(),
        offset=lists[1].values.to_numpy(),
        length=lists[2].values.to_numpy(),
        epoch=table["epoch"].to_numpy(),
    )


def _proven(where: str, num_bytes: int, digest: str) -> bytes:
    for _ in range(_FETCHES):
        try:
            data = storage.read_bytes(where)
        except storage.NotFoundError:
            raise DataError(f"{where}: named in {INFO_FILE}, but missing; restore it, or {_REWRITE}") from None
        found = storage.digest_bytes(data).partition(":")[2]
        if (len(data), found) == (num_bytes, digest):
            return data
    raise DataError(
        f"{where}: not the part that was written: expected {num_bytes} bytes with digest {digest}, found {len(data)}"
        f" bytes with {found} (fetched {_FETCHES} times); restore it, or {_REWRITE}"
    )
