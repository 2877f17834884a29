"""What a URI means: a local path or an object in an S3 bucket, and how names are joined to it. Pure: opens nothing.

Configurations and command line check what they are given with `check_uri`, storage takes the `Location` made here: the
rules on schemes, relative paths and unsafe names exist once.
"""

import os
import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

from longspan.errors import StorageError

Uri = str | os.PathLike[str]
"""What every function of this room accepts as a URI: text, or a `pathlib.Path` for a local one."""

LEASE_FOLDER = ".longspan-lease"
"""Folder in an output that says who writes there (`storage.lease`); no part of the output, and no listing shows it."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BROKEN_SCHEME = re.compile(r"(?i)(?:s3[an]?|gs|gcs|az|abfss?|hdfs|hf|https?|ftp|file):|[A-Z][A-Z0-9+.-]*:/")
"""A local path like this (`s3:/bucket`, `s3:bucket`, `C:/data`) is a URI that was mistyped."""
_ANONYMOUS = "anonymous@"
"""As in pyarrow's and Ray Data's URIs of public buckets."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


@dataclass(frozen=True, slots=True)
class Location:
    """One parsed URI: `bucket` is None for a local path; `path` is the absolute local path or the S3 key.

    An empty key means the bucket itself. What `is_anonymous` is read without credentials: s3://anonymous@bucket/key.
    """

    bucket: str | None
    path: str
    is_anonymous: bool = False

    @property
    def is_remote(self) -> bool:
        return self.bucket is not None

    @property
    def uri(self) -> str:
        if self.bucket is None:
            return self.path
        bucket = f"{_ANONYMOUS}{self.bucket}" if self.is_anonymous else self.bucket
        return f"s3://{bucket}/{self.path}" if self.path else f"s3://{bucket}"

    def contains(self, other: "Location") -> bool:
        """Whether `other` is this place or lies below it."""
        below = f"{self.path.rstrip('/')}/" if self.path else ""
        return self.bucket == other.bucket and (other.path == self.path or other.path.startswith(below))

    def child(self, name: str) -> "Location":
        """The location of the relative `name` ("/" between folders) below this one. StorageError for an unsafe name."""
        name = relative_name(name)
        return replace(self, path=f"{self.path.rstrip('/')}/{name}" if self.path else name)


def parse(uri: Uri) -> Location:
    """Parse a plain path, `file://` URI, `s3://bucket/key` or, of a public bucket, `s3://anonymous@bucket/key`.

    Relative paths are made absolute, `~` is the home folder.

    Raises StorageError for another scheme, a mistyped one (`s3:/bucket`), an empty URI, an impossible bucket name, or a
    key that S3 and a file system would read differently (empty, "." and ".." parts).
    """
    text = os.fspath(uri)
    if not text or "\0" in text:
        raise StorageError(f"{text!r} is not a URI: give a local path or s3://bucket/key")
    match = _SCHEME.fullmatch(text)
    if match is None:
        _refuse_mistyped(text)
        return Location(None, os.path.abspath(os.path.expanduser(text)))
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return Location(None, _file_path(text, rest))
    if scheme == "s3":
        return _s3_location(rest)
    raise StorageError(
        f"{hide_credentials(text)}: scheme {scheme}:// is not supported; give a local path or s3://bucket/key"
    )


def _refuse_mistyped(text: str) -> None:
    shown = hide_credentials(text)
    if _BROKEN_SCHEME.match(text):
        raise StorageError(
            f"{shown}: a scheme ends in '://'; write s3://bucket/key, or ./{shown} for a local path of that name"
        )
    if "://" in text:
        raise StorageError(f"{shown}: '://' stands in the middle; give a local path or s3://bucket/key")


def check_uri(text: str) -> str:
    """`text`, proven to be what `parse` understands.

    Raises ValueError, with the mend, where it is not, or where it begins or ends with a blank.
    """
    if text != text.strip():
        raise ValueError(f"{text!r} begins or ends with a blank; give a local path or s3://bucket/key")
    try:
        parse(text)
    except StorageError as error:
        raise ValueError(str(error)) from None
    return text


def _file_path(text: str, rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise StorageError(f"{hide_credentials(text)}: a file URI has no host; write file:///folder/file")
    return os.path.abspath("/" + unquote(path))


def _s3_location(rest: str) -> Location:
    is_anonymous = rest.startswith(_ANONYMOUS)
    bucket, _, key = rest.removeprefix(_ANONYMOUS).partition("/")
    if "@" in bucket:
        raise StorageError(
            "s3://***@...: credentials do not belong in a URI; use the standard AWS chain (AWS_PROFILE, ...), or write"
            " s3://anonymous@bucket for a public bucket"
        )
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(f"s3://{rest}: {bucket!r} is not a bucket name; write s3://bucket/key")
    key = key.rstrip("/")
    if key:
        _check_parts(f"s3://{rest}", key)
    return Location(bucket, key, is_anonymous)


def is_lease(name: str) -> bool:
    """Whether the relative `name` ("/" between folders) is the folder of a lease, or lies in one."""
    return LEASE_FOLDER in name.split("/")


def relative_name(name: str) -> str:
    """`name` without trailing slashes, proven to stay below the folder it is joined to.

    Raises StorageError for an absolute name, a URI, or empty, "." and ".." parts: names come from manifests and
    listings, which others may have written.
    """
    name = name.rstrip("/")
    _check_parts(repr(name), name)
    return name


def _check_parts(shown: str, name: str) -> None:
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise StorageError(f"{shown}: a name must stay inside its folder; no leading '/', '//', '.' or '..' parts")


def join(uri: Uri, *parts: str) -> str:
    """`uri` with the relative names `parts` below it, as an absolute URI. Raises StorageError for an unsafe name."""
    location = parse(uri)
    for part in parts:
        location = location.child(part)
    return location.uri


def absolute(uri: Uri) -> str:
    """`uri` in the form that means the same in every process: an absolute local path or `s3://bucket/key`."""
    return parse(uri).uri


def anonymous(uri: Uri) -> str:
    """The URI of the same object of a public bucket, read without credentials."""
    return replace(parse(uri), is_anonymous=True).uri


def signed(uri: Uri) -> str:
    """The URI of the same, read with credentials: where two may be one object."""
    return replace(parse(uri), is_anonymous=False).uri


def is_remote(uri: Uri) -> bool:
    """Whether `uri` is in an object store rather than on this machine's file system."""
    return parse(uri).is_remote


def hide_credentials(text: str) -> str:
    """`text` with logins in URLs, signatures, and the values of secret AWS variables replaced by ***."""
    text = re.sub(rf"(?<=://)(?!{_ANONYMOUS})[^/@\s]*@", "***@", text)
    text = re.sub(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s\"']+", r"\1***", text)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        value = os.environ.get(name, "")
        if len(value) >= 8:  # a shorter one is a test store's, and would blank ordinary words
            text = text.replace(value, "***")
    return text
