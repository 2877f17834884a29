"""Raw texts: in order, whole, and every way in which one can be unreadable."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longspan import storage
from longspan.config.corpus import JsonlSource, TextSource
from longspan.corpus import units
from longspan.corpus.bad_rows import BadRowError, Tally
from longspan.corpus.listing import find_files
from longspan.corpus.sources import read_texts
from longspan.corpus.units import Piece
from longspan.errors import DataError


def text_source(*paths: str | Path, pattern: str = "*", max_bytes: int | None = None) -> TextSource:
    return TextSource(name="text", paths=[str(path) for path in paths], pattern=pattern, max_bytes=max_bytes)


def jsonl_source(*paths: str | Path) -> JsonlSource:
    return JsonlSource(type="jsonl", name="lines", paths=[str(path) for path in paths])


def read_all(source: TextSource | JsonlSource, unit_bytes: int = 1 << 20) -> list[str]:
    """Raises what a preparation raises that refuses bad rows."""
    return list(Tally(source).good(read_pieces(source, unit_bytes)))


def read_pieces(source: TextSource | JsonlSource, unit_bytes: int = 1 << 20) -> Iterator[str | BadRowError]:
    return read_texts(source, list(units._pieces(source, find_files(source, "sources.0"), unit_bytes)))


def read_jsonl(path: Path, unit_bytes: int = 1 << 20) -> list[str]:
    return read_all(jsonl_source(path), unit_bytes)


def test_texts_and_lines_are_read_from_s3_in_order(s3_bucket: str) -> None:
    names = [f"f{number:02d}.txt" for number in range(20)]
    for name in names:
        storage.write_bytes(f"{s3_bucket}/data/{name}", f"text {name}".encode())
    assert read_all(text_source(f"{s3_bucket}/data", pattern="*.txt")) == [f"text {name}" for name in names]
    storage.write_bytes(f"{s3_bucket}/l.jsonl.gz", gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert read_all(jsonl_source(f"{s3_bucket}/l.jsonl.gz")) == ["one", "two"]
    storage.write_bytes(f"{s3_bucket}/l.jsonl", b'{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    assert read_all(jsonl_source(f"{s3_bucket}/l.jsonl"), unit_bytes=20) == ["one", "two", "three"]


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes("gr\u00fc\u00df".encode() + b"\xff!")
    with pytest.raises(DataError, match=r"bad\.txt: not UTF-8 at byte 6 "):
        read_all(text_source(tmp_path))


def test_a_file_that_grew_since_the_listing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("longer now")
    with pytest.raises(DataError, match=r"a\.txt: 10 bytes, but 5 when it was listed"):
        list(read_texts(text_source(tmp_path), [Piece(str(tmp_path / "a.txt"), 5, 0, 5, 5)]))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_are_documents_whatever_the_compression(tmp_path: Path, suffix: str) -> None:
    texts = ["one", "two\nlines", "", "gr\u00fcn", "x" * 100_000]
    plain = ("\n\n".join(json.dumps({"text": text}) for text in texts)).encode()
    # Two members in one archive, as `cat a.gz b.gz` makes them, cut in the middle of a line.
    parts = (plain[:50], plain[50:])
    packers: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
    pack = packers[suffix]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"".join(pack(part) for part in parts))
    assert read_jsonl(path) == texts


@contextmanager
def chunks_of(num_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longspan.corpus.sources._CHUNK_BYTES", num_bytes)
        yield


LINES = st.lists(st.one_of(st.just(""), st.just("  "), st.text(max_size=12).map(lambda t: json.dumps({"text": t}))))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(lines=LINES, ends_with_newline=st.booleans(), unit_bytes=st.integers(1, 80), chunk=st.integers(1, 50))
def test_ranges_of_a_file_give_each_line_once_in_order(
    tmp_path: Path, lines: list[str], ends_with_newline: bool, unit_bytes: int, chunk: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(("\n".join(lines) + "\n" * ends_with_newline).encode())
    expected = [json.loads(line)["text"] for line in lines if line.strip()]
    with chunks_of(chunk):
        assert read_jsonl(path, unit_bytes) == expected
    assert read_jsonl(path) == expected


def test_lines_are_joined_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longspan.corpus.sources._CHUNK_BYTES", 7)
    path = tmp_path / "a.jsonl"
    texts = ["word " * 10, "b", "c" * 30]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert read_jsonl(path) == texts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"body": "x"}', r"line 3: no field 'text'; it has \['body'\]"),
        (b"[1]", "line 3: no field 'text'; it has list"),
        (b'{"text": 5}', "line 3: field 'text' is int, not text"),
        (b'{"text": "x', "line 3: not valid JSON"),
        (b"[" * 100_000, "line 3: not valid JSON"),
        (b'{"text": "\\ud800"}', "line 3: field 'text' holds half a surrogate pair"),
        (b'{"text": "\xe9"}', r"a\.jsonl: not UTF-8 at byte 28 "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=message):
        read_jsonl(path)
    if "line 3" in message:
        with pytest.raises(DataError, match=message.replace("line 3", "the line at byte 18")):
            read_jsonl(path, unit_bytes=10)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_or_short_archive_is_refused(tmp_path: Path, suffix: str) -> None:
    plain = b"".join(b'{"text": "%d"}\n' % number for number in range(5000))
    packed = gzip.compress(plain) if suffix == ".gz" else zstandard.ZstdCompressor().compress(plain)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed[:-3])
    with pytest.raises(DataError, match="the archive ends too early"):
        read_jsonl(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the archive ends too early"):
        read_jsonl(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(DataError, match="damaged archive"):
        read_jsonl(path)


def test_a_long_window_is_read_up_to_the_memory_that_is_allowed(tmp_path: Path) -> None:
    """As by `zstd --long=31`: nothing but the header tells of the window."""
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True, compression_level=1)
    path = tmp_path / "a.jsonl.zst"
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with path.open("wb") as file, compressor.stream_writer(file) as writer:
        writer.write(b'{"text": "one"}\n{"text": "two"}\n')
    plain = JsonlSource(type="jsonl", name="lines", paths=[str(path)])
    message = (
        r"a\.jsonl\.zst: compressed with a window of 1073741824 bytes, more than zst_window_bytes 134217728; set zst_"
    )
    with pytest.raises(DataError, match=message):
        read_all(plain)
    assert read_all(plain.model_copy(update={"zst_window_bytes": 1 << 30})) == ["one", "two"]
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(DataError, match="ends too early"):
        read_all(plain.model_copy(update={"zst_window_bytes": 1 << 31}))


@pytest.mark.parametrize("chunk", [3, 1000])
def test_a_line_that_is_too_long_is_named_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("longspan.corpus.sources._CHUNK_BYTES", chunk)
    lines = [json.dumps({"text": text}) for text in ("one", "x" * 100, "two", "y" * 60)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    source = JsonlSource(type="jsonl", name="lines", paths=[str(path)], max_document_bytes=50, on_bad="skip")
    for unit_bytes in (10, 1000):
        rows = list(read_pieces(source, unit_bytes))
        assert [row for row in rows if isinstance(row, str)] == ["one", "two"]
        bad = [str(row) for row in rows if isinstance(row, BadRowError)]
        assert [text.rpartition(": ")[2] for text in bad] == [
            f"{size} bytes, more than max_document_bytes 50" for size in (112, 72)
        ]


def test_a_byte_order_mark_before_the_first_line_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n')
    assert read_jsonl(tmp_path / "a.jsonl") == ["one", "two"]
