"""The work of `prepare` as a list of units, made by listing files: the same list for the same files, every time.

Units of interleaved documents come later, from the shards of the text that they are made of (`window_units`).

A unit is what one task reads, tokenises and writes, so its bounds decide the names and the bytes of shards. Nothing
about workers goes into them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from longspan.config.corpus import (
    ChatSource,
    Corpus,
    FileSource,
    InterleavedSource,
    JsonlSource,
    NeedleSource,
    ParquetSource,
    SynlSource,
)
from longspan.corpus.columns import row_group_bytes
from longspan.corpus.listing import SourceFile, find_all
from longspan.corpus.manifest import ShardInfo
from longspan.errors import DataError

_FOOTERS_AHEAD = 32
_TOKEN_BYTES = 4


@dataclass(frozen=True)
class Piece:
    """Part of a file, or all of it.

    Attributes:
        uri: the file.
        size: bytes of the whole file.
        begin, end: what is taken of it: row groups of a Parquet file, else bytes of the file as it is stored.
        num_bytes: about how much input that is; of Parquet, the text column (of records, all) before compression.
    """

    uri: str
    size: int
    begin: int
    end: int
    num_bytes: int


@dataclass(frozen=True)
class Unit:
    """One task.

    Attributes:
        source: name of the source.
        name: the source's name and the unit's number; names of one source sort as their numbers.
        pieces: texts to read, in order; none of synthetic documents.
        documents: numbers [begin, end) of the synthetic documents to make.
        num_bytes: size of the input, or of the tokens of synthetic documents.
        text: shards that hold the text of interleaved documents, in order; none of others.
        text_begin: tokens of text (each document's bos aside) in the first of them that belong to earlier units.
        windows: tokens of text in each interleaved document; none of others.
    """

    source: str
    name: str
    pieces: tuple[Piece, ...]
    documents: tuple[int, int]
    num_bytes: int
    text: tuple[ShardInfo, ...] = ()
    text_begin: int = 0
    windows: tuple[int, ...] = ()


def list_units(corpus: Corpus, say: Callable[[str], None] = lambda line: None) -> dict[str, list[Unit]]:
    """The units of each source, by its name, in the order in which their documents are numbered.

    There are none of interleaved sources yet. `say` takes a line for data files that no source takes.

    Raises:
        ConfigError: a path without files, or a file that is reached twice.
        DataError: a Parquet file that is damaged or lacks the text column, or a saved dataset that is not complete.
        StorageError: a listing or a footer could not be read.
    """
    units: dict[str, list[Unit]] = {}
    files = find_all(corpus, say)
    for source in corpus.sources:
        if isinstance(source, NeedleSource):
            units[source.name] = _made_units(source.name, source.documents, source.length, corpus.unit_bytes)
        elif isinstance(source, SynlSource):
            length = -(-sum(source.lengths) // len(source.lengths))
            units[source.name] = _made_units(source.name, source.documents, length, corpus.unit_bytes)
        elif isinstance(source, InterleavedSource):
            units[source.name] = []
        else:
            pieces = _pieces(source, files[source.name], corpus.unit_bytes)
            groups = list(_groups(pieces, corpus.unit_bytes))
            names = _unit_names(source.name, len(groups))
            units[source.name] = [
                Unit(source.name, name, tuple(group), (0, 0), sum(piece.num_bytes for piece in group))
                for name, group in zip(names, groups, strict=True)
            ]
    return units


def _unit_names(source: str, count: int) -> list[str]:
    digits = max(5, len(str(count - 1)))
    return [f"{source}-{number:0{digits}d}" for number in range(count)]


def _made_units(source: str, documents: int, length: int, unit_bytes: int) -> list[Unit]:
    """Units of that many synthetic documents of `length` tokens on average."""
    size = _TOKEN_BYTES * length
    begins = range(0, documents, max(1, unit_bytes // size))
    bounds = [(begin, min(begin + begins.step, documents)) for begin in begins]
    return [
        Unit(source, name, (), (begin, end), size * (end - begin))
        for name, (begin, end) in zip(_unit_names(source, len(bounds)), bounds, strict=True)
    ]


def window_units(
    source: InterleavedSource,
    shards: Sequence[ShardInfo],
    num_bos: int,
    windows: NDArray[np.int64],
    unit_bytes: int,
) -> list[Unit]:
    """Units of the windows that an interleaved source's text fills, each with the shards that it lies in.

    Args:
        shards: all of the text source, in order.
        num_bos: tokens at the begin of every document that belong to no text; a window has them once.
        windows: int64 [num_windows], tokens of text in each (`windows.text_of_windows`).

    Raises:
        DataError: the text does not fill one window.
    """
    text = np.array([shard.tokens - num_bos * shard.documents for shard in shards], np.int64)
    ends = np.cumsum(text)
    if not windows.size:
        raise DataError(
            f"source {source.name}: text of {source.text_source}: {int(ends[-1])} tokens do not fill a window of"
            f" {source.window}; give it more text, or a smaller window"
        )
    bounds = np.concatenate([[0], np.cumsum(windows)])
    units = []
    for unit in _made_units(source.name, windows.size, source.window, unit_bytes):
        begin, end = (int(bounds[number]) for number in unit.documents)
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, end, side="left"))
        skip = begin - int(ends[first] - text[first])
        own = tuple(windows[slice(*unit.documents)].tolist())
        units.append(replace(unit, text=tuple(shards[first : last + 1]), text_begin=skip, windows=own))
    return units


def _pieces(source: FileSource, files: list[SourceFile], unit_bytes: int) -> Iterator[Piece]:
    read = partial(_file_pieces, source, unit_bytes)
    if isinstance(source, ParquetSource | ChatSource):
        # A footer is a few small reads; one file after the other would wait for the store most of the time.
        with ThreadPoolExecutor(_FOOTERS_AHEAD) as pool:
            for pieces in pool.map(read, files):
                yield from pieces
        return
    for file in files:
        yield from read(file)


def _file_pieces(source: FileSource, unit_bytes: int, file: SourceFile) -> list[Piece]:
    if is_parquet(source, file.uri):
        return _parquet_pieces(file, source.text_field if isinstance(source, ParquetSource) else None, unit_bytes)
    has_lines = isinstance(source, JsonlSource | ChatSource) and not is_archive(file.uri)
    step = max(unit_bytes if has_lines else file.size, 1)
    bounds = [(begin, min(begin + step, file.size)) for begin in range(0, file.size, step)] or [(0, 0)]
    return [Piece(file.uri, file.size, begin, end, end - begin) for begin, end in bounds]


def is_parquet(source: FileSource, uri: str) -> bool:
    """Whether the source reads the file as Parquet, by row groups."""
    return isinstance(source, ParquetSource) or (isinstance(source, ChatSource) and uri.endswith(".parquet"))


def is_archive(uri: str) -> bool:
    """Whether the file is compressed as a whole, so that it can only be read from its beginning."""
    return uri.endswith((".gz", ".zst"))


def _parquet_pieces(file: SourceFile, text_field: str | None, unit_bytes: int) -> list[Piece]:
    """Neighbouring row groups of at most `unit_bytes` together, at least one each."""
    pieces: list[Piece] = []
    for number, num_bytes in enumerate(row_group_bytes(file.uri, text_field)):
        last = pieces[-1] if pieces else None
        if last is not None and last.num_bytes + num_bytes <= unit_bytes:
            pieces[-1] = Piece(file.uri, file.size, last.begin, number + 1, last.num_bytes + num_bytes)
        else:
            pieces.append(Piece(file.uri, file.size, number, number + 1, num_bytes))
    return pieces


def _groups(pieces: Iterable[Piece], unit_bytes: int) -> Iterator[list[Piece]]:
    """Neighbouring pieces of at most `unit_bytes` together; a larger one is alone."""
    group: list[Piece] = []
    total = 0
    for piece in pieces:
        if group and total + piece.num_bytes > unit_bytes:
            yield group
            group, total = [], 0
        group.append(piece)
        total += piece.num_bytes
    if group:
        yield group
