"""How pyarrow opens a URI: an Arrow file system, or one file that reads through this room's own retries.

Parquet readers ask for the footer and then for single column chunks, so both serve byte ranges, never the whole file.
"""

import io
import os
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import urlsplit

from longspan.storage import local, s3
from longspan.storage.client import endpoint, region
from longspan.storage.retry import get_policy
from longspan.uri import Location, Uri, parse

if TYPE_CHECKING:
    import pyarrow.fs
    from typing_extensions import Buffer

_MAX_TRIES = 10


def arrow_filesystem(uri: Uri) -> "tuple[pyarrow.fs.FileSystem, str]":
    """An Arrow file system and the path of `uri` in it ("/folder/file" or "bucket/key").

    Make it in the process that reads: pickling an S3FileSystem silently drops its retry strategy (10 tries become 3).
    It gives up after 10 tries (about 70 s), with an OSError that may not name the file; `open_input` goes on as long as
    the retry policy says, and raises StorageError.

    Endpoint and region come from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION; credentials
    come from the standard chain. Raises StorageError for an endpoint that is not a URL.
    """
    import pyarrow.fs

    location = parse(uri)
    if not location.is_remote:
        return pyarrow.fs.LocalFileSystem(), location.path
    policy = get_policy()
    url = urlsplit(endpoint() or "https:")
    filesystem = pyarrow.fs.S3FileSystem(
        anonymous=location.is_anonymous,
        region=region(),
        scheme=url.scheme,
        endpoint_override=url.netloc or None,
        connect_timeout=policy.connect_timeout_s,
        request_timeout=policy.read_timeout_s,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_MAX_TRIES),
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or None,
    )
    return filesystem, f"{location.bucket}/{location.path}".rstrip("/")


def open_input(uri: Uri) -> BinaryIO:
    """`uri` as a seekable binary file for reading, for `pyarrow.parquet.ParquetFile` and its like.

    A remote one fetches each range that is read, in parts and with the retries of `read_bytes`, and always from the
    version that was opened: StorageError if it is replaced meanwhile. Not to be shared between threads.
    """
    location = parse(uri)
    if not location.is_remote:
        return local.open_file(location.path)
    entry = s3.head(location)
    if entry is None:
        s3.raise_not_found(location)
    return cast(BinaryIO, _RemoteFile(location, entry))


class _RemoteFile(io.RawIOBase):
    """The reading half of a file object over `s3.read`; a class because that is the protocol that pyarrow asks for."""

    def __init__(self, location: Location, entry: s3.Entry) -> None:
        self._location = location
        self._entry = entry
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._entry.size}[whence]
        if origin + offset < 0:
            raise ValueError(f"cannot seek to {origin + offset}")
        self._position = origin + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._entry.size if size is None or size < 0 else min(self._position + size, self._entry.size)
        if stop <= self._position:
            return b""
        data = s3.read(self._location, self._position, stop, self._entry.etag or None)
        self._position += len(data)
        return data

    def readinto(
        self, buffer: "Buffer"
    ) -> int:  # the base class's other methods, and io.BufferedReader, are built on it
        view = memoryview(buffer).cast("B")
        data = self.read(view.nbytes)
        view[: len(data)] = data
        return len(data)
