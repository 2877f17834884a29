"""What is known of a finished unit, written when all its shards are: the reason not to do it again.

`work` writes a record last, `prepare` sees by the names alone which units are done, `combine` makes the manifest of
them. They are gone when the corpus is finished.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.bad_rows import Tally
from longspan.corpus.chunks import ShardChunks
from longspan.corpus.manifest import ShardInfo
from longspan.corpus.writer import WrittenShard
from longspan.errors import DataError

UNITS_FOLDER = "units"
RECORD_VERSION = 2
"""Of what is in a record, and of what a unit makes of its rows: units of another one are done again."""


class UnitRecord(NamedTuple):
    """One unit as written.

    Attributes:
        shards: in order; none if every document was left out.
        tally: rows read and left out, without the source.
        token_ids: int64 [num_kinds], the tokens that occur, rising.
        token_counts: int64 [num_kinds], how often each does.
    """

    shards: list[WrittenShard]
    tally: Tally
    token_ids: NDArray[np.int64]
    token_counts: NDArray[np.int64]


def record_name(unit: str, fingerprint: str) -> str:
    """Where the record of the unit lies in its corpus. The fingerprint is in the name: a listing tells what is done."""
    return f"{UNITS_FOLDER}/{unit}.{fingerprint}.npz"


def write_record(output: str, name: str, record: UnitRecord) -> None:
    """Write the record to OUTPUT/NAME. Raises StorageError."""
    tally = {"rows": record.tally.rows, "left_out": record.tally.left_out, "first": record.tally.first}
    values = {"shards": [dataclasses.asdict(shard.info) for shard in record.shards], "tally": tally}
    info = json.dumps(values).encode()
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        info=np.frombuffer(info, np.uint8),
        token_ids=record.token_ids,
        token_counts=record.token_counts,
        length=_joined([shard.length for shard in record.shards], np.int32),
        num_chunks=np.array([shard.chunks.tokens.size for shard in record.shards], np.int64),
        chunk_documents=_joined([shard.chunks.documents for shard in record.shards], np.int32),
        chunk_tokens=_joined([shard.chunks.tokens for shard in record.shards], np.int32),
        chunk_digest=np.concatenate([np.empty((0, 16), np.uint8), *(shard.chunks.digest for shard in record.shards)]),
    )
    storage.write_bytes(storage.join(output, name), sink.getvalue())


def read_record(output: str, name: str) -> UnitRecord:
    """The record OUTPUT/NAME.

    Raises:
        DataError: it is damaged.
        StorageError: it could not be read.
    """
    where = storage.join(output, name)
    try:
        with np.load(io.BytesIO(storage.read_bytes(where)), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        values = json.loads(arrays["info"].tobytes())
        infos = [ShardInfo(**info) for info in values["shards"]]
        lengths = np.split(arrays["length"], np.cumsum([info.documents for info in infos], dtype=np.int64))
        chunk_ends = np.cumsum(arrays["num_chunks"])
        chunks = [np.split(arrays[key], chunk_ends) for key in ("chunk_documents", "chunk_tokens", "chunk_digest")]
        shards = [
            WrittenShard(info, length, ShardChunks(*parts))
            # Not strict: what np.split gives behind the last end is empty, and there is nothing else without a shard.
            for info, length, *parts in zip(infos, lengths, *chunks, strict=False)
        ]
        return UnitRecord(shards, Tally(**values["tally"]), arrays["token_ids"], arrays["token_counts"])
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: damaged ({reason}); delete it and run the same command again") from None


def _joined(arrays: Sequence[NDArray[np.int32]], kind: type[np.int32]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, kind), *arrays])
