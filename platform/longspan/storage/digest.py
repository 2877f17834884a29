"""The one digest of the project, xxh3-128, written as "xxh3-128:<32 hex digits>".

It proves that bytes are the ones that were written (shards, plans, checkpoints); it is no defence against an attacker.
"""

import os

import xxhash

from longspan.storage.local import local_errors, open_file

_NAME = "xxh3-128"
_CHUNK_BYTES = 1 << 20


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """Digest of `data`."""
    return f"{_NAME}:{xxhash.xxh3_128_hexdigest(data)}"


def digest_file(path: str | os.PathLike[str]) -> str:
    """Digest of the local file `path`, read 1 MiB at a time. Raises StorageError if it cannot be read."""
    state = xxhash.xxh3_128()
    with open_file(os.fspath(path)) as file, local_errors("read", path):
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return f"{_NAME}:{state.hexdigest()}"
