"""A run that begins with the checkpoint of another: RUN/parent.json says which, and nothing of it is copied.

Until the run has a commit of its own, it resumes from its parent's. A parent's files are only read.
"""

from dataclasses import asdict, dataclass

from longspan import storage
from longspan.checkpoint.commit import Commit, newest_commit, read_commit, step_uri, whole
from longspan.errors import CheckpointError, ConfigError

PARENT_FILE = "parent.json"


@dataclass(frozen=True)
class Parent:
    """`step` of the run at `run`; `mark` is what its commit must have (`config.resume.run_mark`)."""

    run: str
    step: int
    mark: str

    @property
    def name(self) -> str:
        return f"{self.run}@{self.step}"


def split_name(name: str) -> tuple[str, int | None]:
    """RUN@STEP as the run's absolute URI and the step; None where no step is named.

    Raises:
        ConfigError: what stands after the last "@" is no step.
    """
    run, at, step = name.rpartition("@")
    if not at:
        return storage.absolute(name), None
    if not run or not step.isdecimal():
        raise ConfigError(f"--resume-from {name}: expected RUN or RUN@STEP, for example runs/long@200")
    return storage.absolute(run), int(step)


def find_parent(run: str, step: int | None, mark: str) -> tuple[Parent, Commit]:
    """The commit of the run at `run`, the newest where no step is named.

    Raises:
        CheckpointError: there is none, or it is not whole; names it and the steps that there are.
    """
    if step is None:
        commit = newest_commit(run, mark)
        if commit is None:
            raise CheckpointError(f"--resume-from {run}: no checkpoint there yet; train that run to one first")
    else:
        commit = _read(Parent(run, step, mark))
    return Parent(run, commit.step, mark), commit


def _read(parent: Parent) -> Commit:
    try:
        commit = read_commit(parent.run, parent.step)
    except storage.NotFoundError:
        raise CheckpointError(
            f"{parent.name}: there is no checkpoint of this step; restore {step_uri(parent.run, parent.step)}, or begin"
            " a run in another output with --resume-from and a step that is there"
        ) from None
    if not whole(parent.run, commit):
        raise CheckpointError(
            f"{parent.name}: lacks a file of its record, or one has another size; restore it, or begin a run in another"
            " output with --resume-from and another step"
        )
    if commit.fingerprint != parent.mark:
        raise CheckpointError(
            f"{parent.name}: its checkpoint is not of the run's recipe; restore the run's recipe.yaml"
        )
    return commit


def write_parent(run_uri: str, parent: Parent) -> None:
    storage.write_json(storage.join(run_uri, PARENT_FILE), asdict(parent))


def read_parent(run_uri: str) -> Parent | None:
    """Raises CheckpointError where the file is no record of a parent."""
    uri = storage.join(run_uri, PARENT_FILE)
    if not storage.exists(uri):
        return None
    try:
        return Parent(**storage.read_json(uri))
    except TypeError:
        raise CheckpointError(f"{uri}: damaged; restore it, or give another output") from None


def home(run_uri: str, commit: Commit) -> str:
    """The run whose folder holds the commit that the run at `run_uri` resumes from: its own or its parent's."""
    parent = read_parent(run_uri)
    # The first commit of its own is of a later step.
    return parent.run if parent is not None and commit.step <= parent.step else run_uri


def resume_commit(run_uri: str, mark: str) -> Commit | None:
    """The commit that the run at `run_uri` resumes from: its newest, else its parent's; None at the beginning.

    Raises:
        CheckpointError: as `commit.newest_commit`; the parent's step is gone or not whole.
    """
    commit = newest_commit(run_uri, mark)
    parent = read_parent(run_uri) if commit is None else None
    return commit if parent is None else _read(parent)
