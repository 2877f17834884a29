"""The files of an analysis: one part for each unit of documents, and a record that says the part is whole.

`run` writes them, `reader` and `statistics` read them. A part is Parquet, one row a document. Scores are float16: their
errors are far below what separates tokens, and every value has a bin of its own when quantiles are counted.
"""

import json
from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from longspan import storage
from longspan.corpus.manifest import read_verified
from longspan.errors import DataError

RECORDS_FOLDER = "records"
_MOST = float(np.finfo(np.float16).max)


class Unit(NamedTuple):
    """Neighbouring documents of one source, scored by one task into one part.

    Attributes:
        number: of the unit and of its part.
        first_document: number of the first document in the corpus.
        offset: its first token in the global token stream.
        length: int32 [num_documents], tokens of each document.
    """

    number: int
    first_document: int
    offset: int
    length: NDArray[np.int32]


@dataclass(frozen=True)
class PartInfo:
    """One part. Its documents are neighbours in the corpus, so its scores are those of one run of the token stream.

    Attributes:
        file: name in the analysis.
        first_document, offset: as of `Unit`.
        documents, tokens: counts.
        bytes, digest: of the file (xxh3-128).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    file: str
    first_document: NonNegativeInt
    documents: PositiveInt
    offset: NonNegativeInt
    tokens: PositiveInt
    bytes: PositiveInt
    digest: str


class Part(NamedTuple):
    """Content of a part: length int32 [num_documents] and scores float16 [num_tokens], all documents end to end."""

    length: NDArray[np.int32]
    scores: NDArray[np.float16]


def part_name(number: int) -> str:
    return f"parts/part-{number:06d}.parquet"


def record_name(number: int, fingerprint: str) -> str:
    """Name of the unit's record. The fingerprint of the analysis is in it: a listing tells what is done."""
    return f"{RECORDS_FOLDER}/{number:06d}.{fingerprint[:16]}.json"


def write_part(output: str, unit: Unit, scores: NDArray[np.float32]) -> PartInfo:
    """Write the unit's part to OUTPUT; scores float32 [num_tokens] of its documents end to end. The same bytes for the
    same scores.

    Raises:
        DataError: a score is not finite; names the document.
        StorageError: the part could not be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ends = np.cumsum(unit.length, dtype=np.int64)
    for at in np.flatnonzero(~np.isfinite(scores))[:1]:
        place = int(np.searchsorted(ends, at, side="right"))
        raise DataError(
            f"document {unit.first_document + place}: token {at - (ends[place] - unit.length[place])} has the score"
            f" {scores[at]}; a model does not compute finite logits there, try dtype float32"
        )
    # Adding 0 makes one zero of two.
    values = np.clip(scores, -_MOST, _MOST).astype(np.float16) + np.float16(0)
    table = pa.table(
        {
            "document": pa.array(np.arange(unit.first_document, unit.first_document + unit.length.size)),
            "length": pa.array(unit.length),
            "scores": pa.LargeListArray.from_arrays(pa.array(np.append(0, ends)), pa.array(values)),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, row_group_size=unit.length.size)
    data = bytes(sink.getvalue())
    file = part_name(unit.number)
    storage.write_bytes(storage.join(output, file), data)
    return PartInfo(
        file=file,
        first_document=unit.first_document,
        documents=unit.length.size,
        offset=unit.offset,
        tokens=values.size,
        bytes=len(data),
        digest=storage.digest_bytes(data),
    )


def read_part(uri: str, info: PartInfo) -> Part:
    """The part, compared with its digest.

    Raises:
        DataError: it is missing, damaged, or not what the manifest says.
        StorageError: the store could not be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = storage.join(uri, info.file)
    data = read_verified(where, info.bytes, info.digest)
    try:
        table = pq.read_table(pa.BufferReader(data), columns=["document", "length", "scores"]).combine_chunks()
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{where}: not a part of an analysis ({' '.join(str(error).split())})") from None
    length = table["length"].to_numpy()
    scores = table["scores"].combine_chunks().flatten().to_numpy()
    document = table["document"].to_numpy()
    expected = np.arange(info.first_document, info.first_document + info.documents)
    if not np.array_equal(document, expected) or scores.size != info.tokens or length.sum() != info.tokens:
        raise DataError(f"{where}: not the documents and tokens that the manifest says; score the corpus again")
    return Part(length, scores)


def write_record(output: str, number: int, fingerprint: str, info: PartInfo) -> None:
    """Say that the part is whole: written after it."""
    storage.write_json(storage.join(output, record_name(number, fingerprint)), asdict(info))


def read_record(where: str) -> PartInfo | None:
    """The record at `where`, None if it is damaged: its unit is then done again."""
    try:
        return TypeAdapter(PartInfo).validate_python(json.loads(storage.read_bytes(where)))
    except (ValueError, ValidationError):
        return None
