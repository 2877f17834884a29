"""Which model lies at a path: told by content, so that another one put in its place is noticed and named.

A hub model is its commit, which cannot change. A directory is its config.json key by key, the digests of its other
small files, and of each weight file the size, the header and a few ranges: kilobytes, also of a store. Where only an
adapter is trained the frozen weights count at every step, so all of them are read.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.config.model import Model
from longspan.config.recipe import Recipe
from longspan.config.resume import differences, flat, run_mark, told
from longspan.errors import ConfigError

Identity = Mapping[str, Any]
"""`{"commit": hash}` of a hub model; `{"config": {...}, "files": {name: digest}, "weights": {name: {...}}}` of a
directory, as JSON has it.
"""
IDENTITY_FILE = "model.json"
_CONFIG, _WEIGHTS = "config.json", ".safetensors"
_SMALL = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_NOT_OF_THE_MODEL = ("transformers_version", "_name_or_path")
_HEADER_BYTES = 1 << 16
"""Read at first; a longer header is read to its end."""
_MOST_HEADER_BYTES = 100_000_000
_PROBES, _PROBE_BYTES = 4, 1 << 16
_MEND = "restore it, or give this run another output"


def pinned(model: Model) -> Model:
    """`model` with the hub revision that it names now as a commit hash; a directory has none.

    Raises:
        ConfigError: the hub, or its cache on this machine, has no such model.
    """
    if is_directory(model.path):
        return model
    from transformers.utils import cached_file, extract_commit_hash

    try:
        found = cached_file(model.path, _CONFIG, revision=model.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path: cannot read a model config at '{model.path}' ({reason}); give a directory with config.json or"
            " a hub name that can be reached"
        ) from None
    # The snapshot's folder is named by the commit; transformers 5 does not tell it otherwise.
    commit = extract_commit_hash(found, None)
    return model if commit is None else model.model_copy(update={"revision": commit})


def is_directory(path: str) -> bool:
    """Whether the path is a directory here or in a store, and not the name of a model on the hub."""
    return storage.is_remote(path) or Path(path).is_dir()


def identify(model: Model) -> Identity:
    """What lies at `model.path`.

    Args:
        model: a hub name `pinned`. Without LoRA weights are told by size, header and `_PROBES` ranges, random ones
        not at all.

    Raises:
        ConfigError: config.json or a weight file cannot be read as what it is.
        StorageError: the directory could not be read.
    """
    if not is_directory(model.path):
        return {"commit": model.revision}
    sizes = storage.list_sizes(model.path, recursive=False)
    files = [name for name in sizes if name.endswith(_SMALL) and name != _CONFIG]
    weights = [name for name in sizes if name.endswith(_WEIGHTS)] if model.weights == "pretrained" else []
    whole = model.lora is not None
    return {
        "config": _config(model.path),
        "files": {name: storage.digest_bytes(storage.read_bytes(storage.join(model.path, name))) for name in files},
        "weights": {name: _weights(model.path, name, sizes[name], whole) for name in weights},
    }


def identity_digest(identity: Identity) -> str:
    """One digest of it all, for the marks of runs, stages and results."""
    return storage.digest_bytes(json.dumps(identity, sort_keys=True).encode())


def model_changes(old: Identity, new: Identity) -> list[str]:
    """What differs between two identities, each difference by its file, and inside config.json by its key."""
    return list(_changes(old, new))


def expect_model(path: str, old: Identity, new: Identity, mend: str = _MEND) -> None:
    """Refuse a model that is not the one that `old` told.

    Raises:
        ConfigError: names the file and the key, both values and the mend.
    """
    found = model_changes(old, new)
    if found:
        more = f"; and {len(found) - 1} more" if found[1:] else ""
        raise ConfigError(f"model.path: {found[0]}{more} (the model at {path} has changed since); {mend}")


def write_identity(run_uri: str, identity: Identity, asked: str | None) -> None:
    """RUN/model.json; `asked` is the hub revision that the recipe named."""
    storage.write_json(storage.join(run_uri, IDENTITY_FILE), {"asked": asked, "model": identity})


def read_identity(run_uri: str) -> tuple[Identity, str | None] | None:
    """The identity and the hub revision of `write_identity`, None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    uri = storage.join(run_uri, IDENTITY_FILE)
    if not storage.exists(uri):
        return None
    record = storage.read_json(uri)
    return record["model"], record["asked"]


def staged_mark(recipe: Recipe) -> str:
    """What the commits of a staged run have: `run_mark` of its recipe and of the model in RUN/model.json."""
    found = read_identity(recipe.run_uri)
    return run_mark(recipe, identity_digest(found[0]) if found else "")


def _config(path: str) -> dict[str, Any]:
    try:
        values = storage.read_json(storage.join(path, _CONFIG))
    except storage.NotFoundError:
        raise ConfigError(f"model.path: '{path}' has no {_CONFIG}; give a Hugging Face model directory") from None
    if not isinstance(values, dict):
        raise ConfigError(f"model.path: {_CONFIG} of '{path}' is no mapping; fetch the model again")
    return {key: value for key, value in values.items() if key not in _NOT_OF_THE_MODEL}


def _weights(path: str, name: str, size: int, whole: bool) -> dict[str, Any]:
    uri = storage.join(path, name)
    start = storage.read_bytes(uri, 0, _HEADER_BYTES)
    length = 8 + int.from_bytes(start[:8], "little")
    if not 8 < length <= min(size, _MOST_HEADER_BYTES):
        raise ConfigError(f"model.path: {uri} is no safetensors file, or was cut off; fetch the model again")
    header = start[:length] if length <= len(start) else start + storage.read_bytes(uri, len(start), length)
    found = {"bytes": size, "header": storage.digest_bytes(header)}
    if whole:
        local = storage.local_directory(path) / name if storage.is_remote(path) else Path(path, name)
        return {**found, "content": storage.digest_file(local)}
    step = max(1, (size - length) // _PROBES)
    ranges = [(first, min(first + _PROBE_BYTES, size)) for first in range(length, size, step)][:_PROBES]
    probes = b"".join(storage.read_ranges(uri, ranges)) if ranges else b""
    return {**found, "content": storage.digest_bytes(probes)}


def _changes(old: Identity, new: Identity) -> Iterator[str]:
    if "commit" in old or "commit" in new:
        kinds = ["a hub model" if "commit" in identity else "a directory" for identity in (old, new)]
        if kinds[0] != kinds[1]:
            yield f"was {kinds[0]}, is {kinds[1]}"
        elif old["commit"] != new["commit"]:
            yield f"revision was {old['commit']}, is {new['commit']}"
        return
    for change in differences(flat(old["config"]), flat(new["config"])):
        yield f"{_CONFIG}: {told((change,))}"
    for kind in ("files", "weights"):
        before, after = old[kind], new[kind]
        for name in {**before, **after}:
            if name not in after:
                yield f"{name}: was removed"
            elif name not in before:
                yield f"{name}: was added"
            elif before[name] != after[name]:
                yield f"{name}: {_file_change(before[name], after[name])}"


def _file_change(old: Any, new: Any) -> str:
    if isinstance(old, str):
        return "its content has changed"
    if old["bytes"] != new["bytes"]:
        return f"{new['bytes']:,} bytes, was {old['bytes']:,}"
    return "other tensors (its header has changed)" if old["header"] != new["header"] else "other weights"
