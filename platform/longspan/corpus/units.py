"""The work of `prepare` as a list of units, made by listing files: the same list for the same files, every time.

A unit is what one task reads, tokenises and writes, so its bounds decide the names and the bytes of shards. Nothing
about workers goes into them.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from longspan.config.corpus import Corpus, JsonlSource, NeedleSource, ParquetSource, TextualSource
from longspan.corpus.columns import row_group_bytes
from longspan.corpus.listing import SourceFile, find_files

_FOOTERS_AHEAD = 32
_TOKEN_BYTES = 4


@dataclass(frozen=True)
class Piece:
    """Part of a file, or all of it.

    Attributes:
        uri: the file.
        size: bytes of the whole file.
        begin, end: what is taken of it: row groups of a Parquet file, else bytes of the file as it is stored.
        num_bytes: about how much input that is; of Parquet, the text column before compression.
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
    """

    source: str
    name: str
    pieces: tuple[Piece, ...]
    documents: tuple[int, int]
    num_bytes: int


def list_units(corpus: Corpus) -> dict[str, list[Unit]]:
    """The units of each source, by its name, in the order in which their documents are numbered.

    Raises:
        ConfigError: a path without files.
        DataError: a Parquet file that is damaged or lacks the text column, or a saved dataset that is not complete.
        StorageError: a listing or a footer could not be read.
    """
    units: dict[str, list[Unit]] = {}
    for number, source in enumerate(corpus.sources):
        if isinstance(source, NeedleSource):
            units[source.name] = _needle_units(source, corpus.unit_bytes)
        else:
            pieces = _pieces(source, find_files(source, f"sources.{number}"), corpus.unit_bytes)
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


def _needle_units(source: NeedleSource, unit_bytes: int) -> list[Unit]:
    size = _TOKEN_BYTES * source.length
    begins = range(0, source.documents, max(1, unit_bytes // size))
    bounds = [(begin, min(begin + begins.step, source.documents)) for begin in begins]
    return [
        Unit(source.name, name, (), (begin, end), size * (end - begin))
        for name, (begin, end) in zip(_unit_names(source.name, len(bounds)), bounds, strict=True)
    ]


def _pieces(source: TextualSource, files: list[SourceFile], unit_bytes: int) -> Iterator[Piece]:
    if isinstance(source, ParquetSource):
        # A footer is a few small reads; one file after the other would wait for the store most of the time.
        read = partial(_parquet_pieces, text_field=source.text_field, unit_bytes=unit_bytes)
        with ThreadPoolExecutor(_FOOTERS_AHEAD) as pool:
            for pieces in pool.map(read, files):
                yield from pieces
        return
    for file in files:
        step = unit_bytes if isinstance(source, JsonlSource) and not is_archive(file.uri) else file.size
        for begin in range(0, file.size, max(step, 1)):
            end = min(begin + step, file.size)
            yield Piece(file.uri, file.size, begin, end, end - begin)
        if not file.size:
            yield Piece(file.uri, 0, 0, 0, 0)


def is_archive(uri: str) -> bool:
    """Whether the file is compressed as a whole, so that it can only be read from its beginning."""
    return uri.endswith((".gz", ".zst"))


def _parquet_pieces(file: SourceFile, text_field: str, unit_bytes: int) -> list[Piece]:
    """Neighbouring row groups of at most `unit_bytes` of text together, at least one each."""
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
