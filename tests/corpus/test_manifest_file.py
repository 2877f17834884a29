"""A manifest's file: what is no record of the version asked for is refused in one line with the file and the mend."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ConfigDict

from longspan.corpus.manifest_file import check_names, read_manifest
from longspan.errors import DataError


@dataclass(frozen=True)
class Small:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    version: int
    names: tuple[str, ...]


def read(where: Path) -> Small:
    return read_manifest(Small, str(where), 3, absent="nothing here; make it first", again="make it again")


def test_a_record_is_read_with_its_types(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text('{"version": 3, "names": ["a", "b"]}')
    assert read(tmp_path / "small.json") == Small(3, ("a", "b"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no manifest, so nothing here; make it first"),
        (b"{", "not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1));"),
        (b'"\xff"', "not valid JSON ('utf-8' codec"),
        (b"[" * 10_000, "not valid JSON ("),
        (b"[]", "version None; this longspan reads version 3, make it again"),
        (b'{"version": 4, "names": []}', "version 4; this longspan reads version 3, make it again"),
        (b'{"version": 3}', "names: field required; make it again"),
        (b'{"version": 3, "names": [1]}', "names.0: input should be a valid string; make it again"),
        (b'{"version": 3, "names": [], "more": 1}', "more: unexpected keyword argument; make it again"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    where = tmp_path / "small.json"
    if content is not None:
        where.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{where}: {message}")) as raised:
        read(where)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_a_name_stays_inside(name: str) -> None:
    check_names("small.json", ["a", "b/c"])
    with pytest.raises(DataError, match=r"^small\.json: .*must stay inside its folder"):
        check_names("small.json", ["a", name])
