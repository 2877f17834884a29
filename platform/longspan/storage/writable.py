"""Whether a place can be written to, seen before anything is spent; nothing stays behind."""

import os
from pathlib import Path

from longspan.errors import ConfigError
from longspan.storage import local, s3
from longspan.storage.failures import NotFoundError
from longspan.uri import Uri, parse


def check_output(uri: Uri, field: str) -> None:
    """A folder that is there may be written to, one that is not may be made.

    Args:
        field: that names it, for messages.

    Raises:
        ConfigError: it is a file, or below one; it cannot be written to; its bucket does not exist.
        StorageError: the store cannot be reached.
    """
    location = parse(uri)
    if location.is_anonymous:
        raise ConfigError(f"{field}: {location.uri}: anonymous@ is for reading; give the bucket without it")
    if location.is_remote:
        try:
            s3.is_folder(location)
        except NotFoundError as error:
            raise ConfigError(f"{field}: {error}; give a bucket that is there") from None
        return
    path = Path(location.path)
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        what = "is a file" if there.is_file() else "is no folder"
        raise ConfigError(f"{field}: {location.path} cannot be a folder: {there} {what}; give another place")
    try:
        local.try_to_write(str(there))
    except OSError as error:
        raise ConfigError(
            f"{field}: {location.path} cannot be written to ({there}: {error.strerror}); give another place"
        ) from None
