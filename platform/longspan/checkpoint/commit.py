"""The commit record: which steps of a run can be gone on from.

A step's files are written first, COMMIT.json last as one atomic put and deleted first; `latest` files are neither written nor read
(DeepSpeed names its latest step before all ranks have written it). A step counts if its record parses, belongs to this run, and every
file it lists is there with the right size; digests are checked before anything is loaded.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from longspan import storage
from longspan.errors import CheckpointError, StorageError

COMMIT = "COMMIT.json"
VERSION = 1
_STEP = re.compile(r"^step-(\d{8,})$")


@dataclass(frozen=True)
class StoredFile:
    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Commit:
    """`step` optimizer steps are done; the next sample is `next_sample`. `fingerprint` is the recipe's."""

    step: int
    next_sample: int
    fingerprint: str
    topology: dict[str, int]
    versions: dict[str, str]
    files: tuple[StoredFile, ...]
    version: int = VERSION


def checkpoints_uri(run_uri: str) -> str:
    return storage.join(run_uri, "checkpoints")


def step_uri(run_uri: str, step: int) -> str:
    return storage.join(checkpoints_uri(run_uri), f"step-{step:08d}")


def write_commit(run_uri: str, commit: Commit) -> None:
    storage.write_json(storage.join(step_uri(run_uri, commit.step), COMMIT), asdict(commit))


def read_commit(run_uri: str, step: int) -> Commit:
    """Raises CheckpointError naming the record and what is wrong with it; StorageError if it cannot be read."""
    uri = storage.join(step_uri(run_uri, step), COMMIT)
    try:
        values: Any = json.loads(storage.read_text(uri))
        values["files"] = tuple(StoredFile(**file) for file in values["files"])
        commit = Commit(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{uri}: not a commit record ({error}); the step is passed over") from None
    if commit.version != VERSION or commit.step != step:
        raise CheckpointError(
            f"{uri}: record of version {commit.version}, step {commit.step}; expected {VERSION}, {step}"
        )
    return commit


def written_steps(run_uri: str) -> list[int]:
    """Steps with a commit record, whole or not, newest first."""
    names = storage.list_files(checkpoints_uri(run_uri))
    parts = [name.split("/") for name in names]
    matches = [_STEP.match(part[0]) for part in parts if len(part) == 2 and part[1] == COMMIT]
    return sorted((int(match.group(1)) for match in matches if match), reverse=True)


def whole(run_uri: str, commit: Commit) -> bool:
    """Whether every listed file is there with its size."""
    base = step_uri(run_uri, commit.step)
    try:
        return all(storage.size(storage.join(base, file.name)) == file.size for file in commit.files)
    except StorageError:
        return False


def newest_commit(run_uri: str, fingerprint: str, before: int | None = None) -> Commit | None:
    """The newest step to go on from, older than `before` if given; None if there is none.

    Raises:
        CheckpointError: the newest whole record belongs to another recipe.
    """
    for step in written_steps(run_uri):
        if before is not None and step >= before:
            continue
        try:
            commit = read_commit(run_uri, step)
        except CheckpointError:
            continue
        if not whole(run_uri, commit):
            continue
        if commit.fingerprint != fingerprint:
            raise CheckpointError(
                f"{run_uri}: its checkpoints are of another recipe (model, data, positions or training differ);"
                " give this run another output"
            )
        return commit
    return None


def remove_step(run_uri: str, step: int) -> None:
    """Take a step away, its record first, so that it never looks whole while it goes."""
    base = step_uri(run_uri, step)
    storage.delete(storage.join(base, COMMIT))
    storage.delete_tree(base)


def retain(run_uri: str, keep: int) -> None:
    """Keep the newest `keep` whole steps; older ones, and newer or older left-overs without a whole record, go."""
    kept = 0
    for step in written_steps(run_uri):
        try:
            good = whole(run_uri, read_commit(run_uri, step))
        except CheckpointError:
            good = False
        if good and kept < keep:
            kept += 1
        else:
            remove_step(run_uri, step)


def damaged_files(run_uri: str, commit: Commit, names: list[str] | None = None) -> list[str]:
    """What is wrong with the commit's files, by size and digest; `names` limits it to some of them."""
    problems = []
    for file in commit.files:
        if names is not None and file.name not in names:
            continue
        uri = storage.join(step_uri(run_uri, commit.step), file.name)
        try:
            data = storage.read_bytes(uri) if storage.is_remote(uri) else None
            digest = storage.digest_bytes(data) if data is not None else storage.digest_file(uri)
        except (StorageError, OSError) as error:
            problems.append(f"{uri}: {error}")
            continue
        if digest != file.digest:
            problems.append(f"{uri}: digest {digest}, expected {file.digest}")
    return problems
