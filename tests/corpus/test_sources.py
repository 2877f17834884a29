"""Raw texts: which files, in which order, and every way in which one can be unreadable."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from longspan import storage
from longspan.config.corpus import JsonlSource, TextSource
from longspan.corpus.sources import find_files, read_texts
from longspan.errors import ConfigError, DataError


def text_source(*paths: str | Path, pattern: str = "*", max_bytes: int | None = None) -> TextSource:
    return TextSource(name="text", paths=[str(path) for path in paths], pattern=pattern, max_bytes=max_bytes)


def jsonl_source(*paths: str | Path) -> JsonlSource:
    return JsonlSource(type="jsonl", name="lines", paths=[str(path) for path in paths])


def write_all(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def read_jsonl(path: Path) -> list[str]:
    return list(read_texts(jsonl_source(path), [str(path)]))


def test_folders_are_searched_by_name_or_path_in_sorted_order(tmp_path: Path) -> None:
    write_all(tmp_path, "b.py", "a/z.py", "a/.hidden.py", ".git/c.py", "a/y.txt")
    found = find_files(text_source(tmp_path, pattern="*.py"), "sources.0")
    assert found == [f"{tmp_path}/a/z.py", f"{tmp_path}/b.py"]
    assert find_files(text_source(tmp_path, pattern="a/*"), "sources.0") == [
        f"{tmp_path}/a/y.txt",
        f"{tmp_path}/a/z.py",
    ]
    assert find_files(text_source(tmp_path / "b.py", tmp_path / "a"), "sources.0")[0] == f"{tmp_path}/b.py"


def test_a_named_file_needs_no_pattern(tmp_path: Path) -> None:
    write_all(tmp_path, "b.md")
    assert find_files(text_source(tmp_path / "b.md", pattern="*.py"), "sources.0") == [f"{tmp_path}/b.md"]


def test_jsonl_folders_hold_plain_and_compressed_files(tmp_path: Path) -> None:
    write_all(tmp_path, "a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.json", "e.txt")
    found = find_files(jsonl_source(tmp_path), "sources.0")
    assert found == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl.gz", f"{tmp_path}/c.jsonl.zst"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [(["gone"], r"sources\.3\.paths\.0: .*gone: no file matches \*\.py"), ([], r"sources\.3\.paths: empty")],
)
def test_rejects_paths_without_files(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_files(text_source(*(tmp_path / path for path in paths), pattern="*.py"), "sources.3")


def test_texts_are_read_whole_until_max_bytes(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 20), ("c", 5)):
        (tmp_path / name).write_text("x" * size)
    files = [str(tmp_path / name) for name in "abc"]
    assert [len(text) for text in read_texts(text_source(tmp_path), files)] == [10, 20, 5]
    assert [len(text) for text in read_texts(text_source(tmp_path, max_bytes=30), files)] == [10, 20]
    assert [len(text) for text in read_texts(text_source(tmp_path, max_bytes=29), files)] == [10]


def test_texts_and_lines_are_read_from_s3_in_order(s3_bucket: str) -> None:
    names = [f"f{number:02d}.txt" for number in range(20)]
    for name in names:
        storage.write_bytes(f"{s3_bucket}/data/{name}", f"text {name}".encode())
    files = find_files(text_source(f"{s3_bucket}/data", pattern="*.txt"), "sources.0")
    assert list(read_texts(text_source(s3_bucket), files)) == [f"text {name}" for name in names]
    storage.write_bytes(f"{s3_bucket}/l.jsonl.gz", gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    files = find_files(jsonl_source(f"{s3_bucket}/l.jsonl.gz"), "sources.0")
    assert list(read_texts(jsonl_source(s3_bucket), files)) == ["one", "two"]


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes("gr\u00fc\u00df".encode() + b"\xff!")
    with pytest.raises(DataError, match=r"bad\.txt: not UTF-8 at byte 6 "):
        list(read_texts(text_source(tmp_path), [str(tmp_path / "bad.txt")]))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_are_documents_whatever_the_compression(tmp_path: Path, suffix: str) -> None:
    texts = ["one", "two\nlines", "", "gr\u00fcn", "x" * 100_000]
    plain = ("\n\n".join(json.dumps({"text": text}) for text in texts)).encode()
    # Two members in one archive, as `cat a.gz b.gz` makes them, cut in the middle of a line.
    parts = (plain[:50], plain[50:])
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"".join(pack(part) for part in parts))
    assert read_jsonl(path) == texts


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


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_or_short_archive_is_refused(tmp_path: Path, suffix: str) -> None:
    plain = b"".join(b'{"text": "%d"}\n' % number for number in range(5000))
    packed = gzip.compress(plain) if suffix == ".gz" else zstandard.ZstdCompressor().compress(plain)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed[:-3])
    with pytest.raises(DataError, match="the archive ends too early"):
        read_jsonl(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(DataError, match="damaged archive"):
        read_jsonl(path)
