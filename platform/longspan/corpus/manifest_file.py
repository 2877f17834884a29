"""A manifest's file read into its record: of a corpus (`manifest`) and of an analysis of one (`impact.manifest`).

Nothing in the file is believed: every refusal is one line with the file, the field and the mend.
"""

import json
from collections.abc import Iterable
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from longspan import storage
from longspan.errors import DataError, StorageError

Record = TypeVar("Record")


def read_manifest(record: type[Record], where: str, version: int, *, absent: str, again: str) -> Record:
    """The record in the JSON file at `where`, of which each field has its type.

    Args:
        record: a dataclass with the field `version`.
        version: the only one that is read.
        absent: what it means that there is no file, and the mend.
        again: the mend of any other file ("prepare the corpus again").

    Raises:
        DataError: no file, no JSON, another version, or a field that is missing, unknown or of another type.
        StorageError: the store could not be read.
    """
    try:
        values = json.loads(storage.read_bytes(where))
    except storage.NotFoundError:
        raise DataError(f"{where}: no manifest, so {absent}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); {again}") from None
    found = values.get("version") if isinstance(values, dict) else None
    if found != version:
        raise DataError(f"{where}: version {found!r}; this longspan reads version {version}, {again}")
    try:
        return TypeAdapter(record).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: {field}: {first['msg'][0].lower()}{first['msg'][1:]}; {again}") from None


def check_names(where: str, names: Iterable[str]) -> None:
    """Raises DataError where a name in the manifest at `where` leads out of its directory."""
    for name in names:
        try:
            storage.join("s3://manifest", name)
        except StorageError as error:
            raise DataError(f"{where}: {error}") from None
