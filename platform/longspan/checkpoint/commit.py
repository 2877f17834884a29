"""The commit record: which steps of a run can be gone on from.

A step's files are written first, COMMIT.json last as one atomic put and deleted first; `latest` files are neither
written nor read (DeepSpeed names its latest step before all ranks have written it). A step counts if its record parses,
belongs to this run, and every file it lists is there with the right size; digests are checked before any loading.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.config.resume import Change, differences, free_values
from longspan.errors import CheckpointError, DataError, StorageError

COMMIT = "COMMIT.json"
DAMAGED = "DAMAGED.json"
VERSION = 2
_STEP = re.compile(r"step-([0-9]{8,})")


@dataclass(frozen=True)
class StoredFile:
    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Commit:
    """`step` optimizer steps are done; the next sample is `next_sample`. `fingerprint` is `config.resume.run_mark`.

    `settings` are `config.resume.free_values` of the recipe that made it, `changes` all that have come at resumes
    before.
    """

    step: int
    next_sample: int
    fingerprint: str
    topology: dict[str, int]
    versions: dict[str, str]
    files: tuple[StoredFile, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    version: int = VERSION


def changes_at(commit: Commit | None, recipe: Recipe) -> tuple[Change, ...]:
    """All changes of a run that resumes from `commit` with `recipe`: those recorded, and those that come now."""
    if commit is None:
        return ()
    return (*commit.changes, *differences(commit.settings, free_values(recipe), commit.step))


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
        values["files"] = tuple(_stored_file(**file) for file in values["files"])
        values["changes"] = tuple(Change(**change) for change in values.get("changes", ()))
        commit = Commit(**values)
    except (ValueError, TypeError, KeyError, DataError, RecursionError) as error:
        raise CheckpointError(f"{uri}: not a commit record ({error}); the step is passed over") from None
    if commit.version != VERSION or commit.step != step:
        raise CheckpointError(
            f"{uri}: record of version {commit.version}, step {commit.step}; expected {VERSION}, {step}"
        )
    return commit


def _stored_file(name: Any, size: Any, digest: Any) -> StoredFile:
    if not (isinstance(name, str) and isinstance(size, int) and isinstance(digest, str)):
        raise TypeError(f"file {name!r} of size {size!r}, digest {digest!r}")
    return StoredFile(name, size, digest)


def written_steps(run_uri: str) -> list[int]:
    """Steps with a commit record, whole or not, newest first."""
    names = storage.list_files(checkpoints_uri(run_uri))
    return _steps(name.removesuffix(f"/{COMMIT}") for name in names if name.endswith(f"/{COMMIT}"))


def _steps(names: Iterable[str]) -> list[int]:
    """Steps whose folders have these names, newest first."""
    folders = set(names)
    steps = {int(match.group(1)) for match in map(_STEP.fullmatch, folders) if match}
    return sorted((step for step in steps if f"step-{step:08d}" in folders), reverse=True)


def whole(run_uri: str, commit: Commit) -> bool:
    """Whether every listed file is there with its size. Raises StorageError if the store does not say."""
    base = step_uri(run_uri, commit.step)
    try:
        uris = [storage.join(base, file.name) for file in commit.files]
    except StorageError:  # a name that leads out of the folder
        return False
    try:
        return all(storage.size(uri) == file.size for uri, file in zip(uris, commit.files, strict=True))
    except storage.NotFoundError:
        return False


def newest_commit(run_uri: str, fingerprint: str) -> Commit | None:
    """The newest step to go on from; None if there is no record at all.

    Raises:
        CheckpointError: the newest whole record belongs to another recipe, or there are records, but none is whole
            (those that were set aside as damaged among them).
            (A crash leaves no such record, as it is written last and deleted first.)
    """
    problem = None
    for step in written_steps(run_uri):
        try:
            commit = read_commit(run_uri, step)
        except (CheckpointError, storage.NotFoundError) as error:
            problem = problem or str(error)
            continue
        if not whole(run_uri, commit):
            problem = problem or f"{step_uri(run_uri, step)} lacks a file of its record, or one has another size"
            continue
        if commit.fingerprint != fingerprint:
            raise CheckpointError(
                f"{run_uri}: its checkpoints are of another recipe or model than recipe.yaml and model.json there say;"
                " restore those files, or give this run another output"
            )
        return commit
    problem = problem or _set_aside_before(run_uri)
    if problem:
        raise CheckpointError(
            f"no checkpoint of {run_uri} is intact: {problem}; restore it, or remove"
            f" {checkpoints_uri(run_uri)} to start anew"
        )
    return None


def set_aside(run_uri: str, step: int, problems: list[str]) -> None:
    """Turn a damaged step's record into DAMAGED.json, so that everything that asks sees the same newest step.

    What is there stays, to be looked at or restored, until the next commit clears it away.
    """
    base = step_uri(run_uri, step)
    record = storage.read_json(storage.join(base, COMMIT))
    storage.write_json(storage.join(base, DAMAGED), {"problems": problems, "commit": record})
    storage.delete(storage.join(base, COMMIT))


def _set_aside_before(run_uri: str) -> str | None:
    """What was wrong with a step that was set aside, if there is one."""
    names = [name for name in storage.list_files(checkpoints_uri(run_uri)) if name.endswith(f"/{DAMAGED}")]
    if not names:
        return None
    record = storage.read_json(storage.join(checkpoints_uri(run_uri), max(names)))
    return str(record["problems"][0])


def remove_step(run_uri: str, step: int) -> None:
    """Take a step away, its record first, so that it never looks whole while it goes."""
    base = step_uri(run_uri, step)
    storage.delete(storage.join(base, COMMIT))
    storage.delete_tree(base)


def retain(run_uri: str, keep: int, newest: int) -> None:
    """Keep the newest `keep` whole steps up to `newest`, the one just committed; all else goes.

    What is newer was passed over when this attempt began (damaged), and folders without a whole record are left-overs.
    So are empty ones: a process that was killed in the middle of this had taken away their files, not them.
    """
    kept = 0
    for step in _steps(storage.list_folders(checkpoints_uri(run_uri))):
        try:
            good = step <= newest and kept < keep and whole(run_uri, read_commit(run_uri, step))
        except (CheckpointError, storage.NotFoundError):
            good = False
        if good:
            kept += 1
        else:
            remove_step(run_uri, step)


def damaged_files(run_uri: str, commit: Commit, names: list[str] | None = None) -> list[str]:
    """What is wrong with the commit's files, by size and digest; `names` limits it to some of them.

    What lies in a store is fetched to the node's cache on the way, where `state.StoredState` finds it: it is read once.
    """
    problems = []
    for file in commit.files:
        if names is not None and file.name not in names:
            continue
        uri = storage.join(step_uri(run_uri, commit.step), file.name)
        try:
            path = storage.local_copy(uri, digest=file.digest)
            digest = file.digest if storage.is_remote(uri) else storage.digest_file(path)
        except (StorageError, OSError) as error:
            problems.append(f"{uri}: {error}")
            continue
        if digest != file.digest:
            problems.append(f"{uri}: digest {digest}, expected {file.digest}")
    return problems
