from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.corpus.impact import reader as reader_module
from longspan.corpus.impact.manifest import ImpactManifest, write_manifest
from longspan.corpus.impact.parts import PartInfo, Unit, write_part
from longspan.corpus.impact.reader import ImpactReader
from longspan.corpus.impact.settings import ScoreSettings
from longspan.errors import DataError
from tests.corpus_files import random_documents, write_corpus


class Written(NamedTuple):
    uri: str
    scores: np.ndarray
    lengths: list[list[int]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Parts of documents 3 to 8 and 10 to 11 of a corpus; the stream's tokens 20 to 59 and 80 to 99."""
    uri = str(tmp_path_factory.mktemp("scores"))
    lengths = [[4, 6, 10], [1, 9, 10], [15, 5]]
    firsts, offsets = [3, 6, 10], [20, 40, 80]
    scores = np.random.default_rng(0).integers(-90, 90, 100).astype(np.float32)
    units = [Unit(i, firsts[i], offsets[i], np.array(lengths[i], np.int32)) for i in range(3)]
    parts = [write_part(uri, unit, scores[unit.offset : unit.offset + 20]) for unit in units]
    settings = ScoreSettings(model="m", base="b", window=8)
    write_manifest(uri, ImpactManifest(1, "f", "c", settings, {}, tuple(parts)))
    return Written(uri, scores, lengths)


def test_any_part_of_any_document(written: Written) -> None:
    reader = ImpactReader(written.uri)
    for document, offset, length in ((3, 20, 4), (5, 30, 10), (6, 40, 1), (7, 41, 9), (10, 80, 15), (11, 95, 5)):
        for start in range(length):
            found = reader.scores(document, start, length - start)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, written.scores[offset + start : offset + length])
    assert reader.scores(3, 4, 0).size == 0
    for document, start, length in ((3, 0, 5), (3, -1, 2), (3, 4, 1)):
        with pytest.raises(DataError, match="of document 3 asked for, which has 4"):
            reader.scores(document, start, length)
    for document in (-1, 2, 9, 12):
        with pytest.raises(DataError, match=f"document {document} was not scored"):
            reader.scores(document, 0, 1)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 45)), max_size=8))
def test_spans_of_the_stream(written: Written, spans: list[tuple[int, int]]) -> None:
    reader = ImpactReader(written.uri)
    offsets, lengths = np.array(spans, np.int64).reshape(-1, 2).T
    places = [place for offset, length in spans for place in range(offset, offset + length)]
    if all(20 <= place < 60 or 80 <= place < 100 for place in places):
        np.testing.assert_array_equal(reader.gather(offsets, lengths), written.scores[places])
    else:
        with pytest.raises(DataError, match="was not scored"):
            reader.gather(offsets, lengths)


def test_only_the_parts_asked_for_are_fetched_and_the_last_ones_kept(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    read_part = reader_module.read_part

    def counted(uri: str, info: PartInfo) -> Any:
        fetched.append(info.file[-9:-8])
        return read_part(uri, info)

    monkeypatch.setattr(reader_module, "read_part", counted)
    reader = ImpactReader(written.uri, memory_bytes=120)  # room for two parts
    for document in (7, 8, 3, 7, 10, 7, 3):
        reader.scores(document, 0, 1)
    assert fetched == ["1", "0", "2", "0"]


def test_scores_of_another_corpus_are_refused(written: Written, tmp_path: Path) -> None:
    corpus = write_corpus(str(tmp_path), {"text": random_documents(0, [5])})
    with pytest.raises(DataError, match="the scores are those of another corpus"):
        ImpactReader(written.uri, corpus)


def test_no_analysis(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no manifest, so no finished analysis here"):
        ImpactReader(str(tmp_path))
