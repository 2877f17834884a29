"""The digest of bytes and files."""

from pathlib import Path

import pytest

from longspan.storage import NotFoundError, digest_bytes, digest_file


def test_known_value() -> None:
    """The digest of nothing, as published with xxHash."""
    assert digest_bytes(b"") == "xxh3-128:99aa06d3014798d86001c324468d497f"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_file_and_bytes_agree(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(data)
    assert digest_file(tmp_path / "file") == digest_bytes(data) == digest_bytes(memoryview(data))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"cannot read {tmp_path}/none: it does not exist"):
        digest_file(tmp_path / "none")
