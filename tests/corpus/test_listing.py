"""Which files a source is made of: by names, in order, and for saved datasets by what they say of themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from longspan import storage
from longspan.config.corpus import ArrowSource, ChatSource, Corpus, JsonlSource, ParquetSource, Source, TextSource
from longspan.corpus.listing import SourceFile, find_all, find_files
from longspan.errors import ConfigError, DataError


def text_source(*paths: str | Path, pattern: str = "*", max_bytes: int | None = None) -> TextSource:
    return TextSource(name="text", paths=[str(path) for path in paths], pattern=pattern, max_bytes=max_bytes)


def arrow_source(path: str | Path, split: str | None = None) -> ArrowSource:
    return ArrowSource(type="arrow", name="rows", paths=[str(path)], split=split)


def write_all(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def names(files: list[SourceFile], folder: str | Path) -> list[str]:
    return [file.uri.removeprefix(f"{folder}/") for file in files]


def test_folders_are_searched_by_name_or_path_in_sorted_order(tmp_path: Path) -> None:
    write_all(tmp_path, "b.py", "a/z.py", "a/.hidden.py", ".git/c.py", "a/y.txt")
    found = find_files(text_source(tmp_path, pattern="*.py"), "sources.0")
    assert found == [SourceFile(f"{tmp_path}/a/z.py", 14), SourceFile(f"{tmp_path}/b.py", 12)]
    assert names(find_files(text_source(tmp_path, pattern="a/*"), "sources.0"), tmp_path) == ["a/y.txt", "a/z.py"]
    found = find_files(text_source(tmp_path / "b.py", tmp_path / "a"), "sources.0")
    assert names(found, tmp_path) == ["b.py", "a/y.txt", "a/z.py"]


def test_a_named_file_needs_no_pattern(tmp_path: Path, s3_bucket: str) -> None:
    write_all(tmp_path, "b.md")
    assert find_files(text_source(tmp_path / "b.md", pattern="*.py"), "x") == [SourceFile(f"{tmp_path}/b.md", 12)]
    storage.write_bytes(f"{s3_bucket}/b.md", b"text")
    assert find_files(text_source(f"{s3_bucket}/b.md", pattern="*.py"), "x") == [SourceFile(f"{s3_bucket}/b.md", 4)]


LINES = ("a.json.gz", "a.json.zst", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson", "a.ndjson.gz", "a.ndjson.zst")


def test_each_kind_has_its_names(tmp_path: Path) -> None:
    write_all(tmp_path, *LINES, "d.json", "e.txt", "f.parquet", "g/h.arrow")
    write_all(tmp_path, "g/i.feather", "g/cache-1f.arrow")
    lines = JsonlSource(type="jsonl", name="lines", paths=[str(tmp_path)])
    assert names(find_files(lines, "x"), tmp_path) == list(LINES)
    talks = ChatSource(type="chat", name="talks", paths=[str(tmp_path)])
    assert names(find_files(talks, "x"), tmp_path) == [*LINES, "f.parquet"]
    rows = ParquetSource(type="parquet", name="rows", paths=[str(tmp_path)])
    assert names(find_files(rows, "x"), tmp_path) == ["f.parquet"]
    assert names(find_files(arrow_source(tmp_path), "x"), tmp_path) == ["g/h.arrow", "g/i.feather"]


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "arrow", "chat"])
def test_every_kind_takes_a_pattern(tmp_path: Path, kind: str) -> None:
    write_all(tmp_path, "a/part-0", "a/part-1", "b/part-0", "a.jsonl", "a.parquet", "a.arrow", "cache-1f.arrow")
    changes = {"type": kind, "name": "x", "paths": [str(tmp_path)], "pattern": "*.arrow"}
    source: Any = TypeAdapter(Source).validate_python({**changes, "pattern": "a/part-*"})
    assert names(find_files(source, "x"), tmp_path) == ["a/part-0", "a/part-1"]
    source = TypeAdapter(Source).validate_python({**changes, "pattern": "*.arrow"})
    assert names(find_files(source, "x"), tmp_path) == ["a.arrow", "cache-1f.arrow"]


def corpus(*sources: dict[str, Any]) -> Corpus:
    named = [{"name": f"s{number}", **source} for number, source in enumerate(sources)]
    return Corpus.model_validate({"output": "x", "tokenizer": {"path": "x"}, "sources": named})


def said(*sources: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    find_all(corpus(*sources), lines.append)
    return lines


def test_data_files_that_nobody_takes_are_named(tmp_path: Path) -> None:
    write_all(tmp_path, "a.jsonl", "b.json", "c/d.csv.gz", "e.JSONL", "f.jsonl.bz2", "g.parquet", "README.md", "s.sh")
    write_all(tmp_path, "dataset_infos.json", ".x.json", "_SUCCESS", "cache-1.arrow")
    lines = {"type": "jsonl", "paths": [str(tmp_path)]}
    rest = "(b.json, d.csv.gz, e.JSONL, ...); set pattern to take them"
    assert said(lines) == [f"sources.0.paths.0: {tmp_path}: 5 data files are not taken {rest}"]
    rows = {"type": "parquet", "paths": [str(tmp_path)]}
    assert said(lines, rows)[0] == f"sources.0.paths.0: {tmp_path}: 4 data files are not taken {rest}"
    assert said({"paths": [str(tmp_path)]}) == []
    with pytest.raises(ConfigError, match=r"no file matches \*\.feathers; it has a\.jsonl, b\.json, c/d"):
        said({**lines, "pattern": "*.feathers"})


def test_a_file_that_is_reached_twice_is_refused(tmp_path: Path, s3_bucket: str) -> None:
    write_all(tmp_path, "a/x.jsonl", "a/y.jsonl", "b/z.jsonl")
    (tmp_path / "b" / "link.jsonl").symlink_to(tmp_path / "a" / "x.jsonl")
    lines = {"type": "jsonl"}
    cases: list[list[dict[str, Any]]] = [
        [{**lines, "paths": [str(tmp_path / "a"), str(tmp_path / "a" / "x.jsonl")]}],
        [{**lines, "paths": [str(tmp_path / "a"), str(tmp_path / "b" / ".." / "a")]}],
        [{**lines, "paths": [str(tmp_path / "b"), str(tmp_path / "a")]}],
        [{**lines, "paths": [str(tmp_path / "a")]}, {**lines, "paths": [str(tmp_path / "b")]}],
        [{"paths": [str(tmp_path / "a")]}, {"paths": [f"file://{tmp_path}/a/x.jsonl"]}],
    ]
    for sources in cases:
        with pytest.raises(ConfigError, match=r"^sources\.\d\.paths: .*\.jsonl is reached twice: it is also"):
            said(*sources)
    storage.write_bytes(f"{s3_bucket}/d/a.jsonl", b"{}")
    with pytest.raises(ConfigError, match=r"d/a\.jsonl is reached twice"):
        said({**lines, "paths": [f"{s3_bucket}/d", f"{s3_bucket}/d/a.jsonl"]})


def test_two_columns_of_one_file_are_two_things(tmp_path: Path) -> None:
    write_all(tmp_path, "x.jsonl")
    lines = {"type": "jsonl", "paths": [str(tmp_path)]}
    assert said(lines, {**lines, "text_field": "title"}, {**lines, "type": "chat"}) == []


@pytest.mark.parametrize(
    ("paths", "message"),
    [(["gone"], r"sources\.3\.paths\.0: .*gone: no file matches \*\.py"), ([], r"sources\.3\.paths: empty")],
)
def test_rejects_paths_without_files(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_files(text_source(*(tmp_path / path for path in paths), pattern="*.py"), "sources.3")


def test_max_bytes_takes_whole_files(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 20), ("c", 5)):
        (tmp_path / name).write_text("x" * size)
    for max_bytes, expected in ((None, "abc"), (35, "abc"), (30, "ab"), (29, "a"), (10, "a")):
        found = find_files(text_source(tmp_path, max_bytes=max_bytes), "x")
        assert names(found, tmp_path) == list(expected)
    with pytest.raises(ConfigError, match=r"sources\.1\.max_bytes: 9 is less than its first file, .*/a \(10\)"):
        find_files(text_source(tmp_path, max_bytes=9), "sources.1")


def save_dataset(folder: Path, count: int = 2, **state: Any) -> None:
    """A folder as `save_to_disk` writes it, empty files in it, and what `map` leaves beside them."""
    files = [f"data-{number:05d}-of-{count:05d}.arrow" for number in range(count)]
    write_all(folder, *files, "cache-0123456789abcdef.arrow", "tmp1234.arrow", "dataset_info.json")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files], **state}))


def test_a_saved_dataset_names_its_files(tmp_path: Path) -> None:
    save_dataset(tmp_path)
    expected = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert names(find_files(arrow_source(tmp_path), "x"), tmp_path) == expected
    assert said({"type": "arrow", "paths": [str(tmp_path)]}) == []
    with pytest.raises(ConfigError, match="is a saved dataset, which names its files itself; leave pattern out"):
        said({"type": "arrow", "paths": [str(tmp_path)], "pattern": "*.arrow"})


def test_a_split_is_taken_of_a_saved_dataset_dict(tmp_path: Path) -> None:
    for split in ("test", "train"):
        save_dataset(tmp_path / split, 1)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = find_files(arrow_source(tmp_path, "train"), "x")
    assert names(found, tmp_path) == ["train/data-00000-of-00001.arrow"]
    with pytest.raises(ConfigError, match=r"sources\.0\.paths\.0: .* holds the splits \['train', 'test'\]; set split"):
        find_files(arrow_source(tmp_path), "sources.0")
    with pytest.raises(ConfigError, match="has no split 'valid', it holds"):
        find_files(arrow_source(tmp_path, "valid"), "x")
    with pytest.raises(ConfigError, match=r"split 'train' is asked for, but .*test is no saved DatasetDict"):
        find_files(arrow_source(tmp_path / "test", "train"), "x")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert names(find_files(arrow_source(tmp_path), "x"), tmp_path) == ["test/data-00000-of-00001.arrow"]
    (tmp_path / "test" / "state.json").unlink()
    with pytest.raises(DataError, match=r"test: no state\.json; save or copy the dataset again"):
        find_files(arrow_source(tmp_path), "x")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_data_files": [{"filename": "data-9.arrow"}]}, r"names data-9\.arrow, which is missing"),
        ({"_data_files": []}, "names no data file"),
        ({"_data_files": ["data-0.arrow"]}, "no list of data files"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, r"rows are chosen by an index file; call flatten_indices"),
    ],
)
def test_a_saved_dataset_that_is_not_whole_is_refused(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    save_dataset(tmp_path, **state)
    with pytest.raises(DataError, match=rf"state\.json: {message}"):
        find_files(arrow_source(tmp_path), "x")
