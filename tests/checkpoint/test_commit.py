"""The commit protocol by itself: a step exists if, and only if, its record parses and all its files are there."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from longspan import storage
from longspan.checkpoint import commit as protocol
from longspan.checkpoint.commit import (
    COMMIT,
    Commit,
    StoredFile,
    checkpoints_uri,
    damaged_files,
    newest_commit,
    read_commit,
    remove_step,
    retain,
    set_aside,
    step_uri,
    whole,
    write_commit,
    written_steps,
)
from longspan.errors import CheckpointError, StorageError

RUN = "f" * 32
CONTENT = {"state-00000-of-00002.safetensors": b"a" * 100, "state-00001-of-00002.safetensors": bytes(range(256)) * 4}


def committed(run_uri: str, step: int, fingerprint: str = RUN, content: dict[str, bytes] = CONTENT) -> Commit:
    """A whole step as `save_state` leaves it, without a model."""
    for name, data in content.items():
        storage.write_bytes(storage.join(step_uri(run_uri, step), name), data)
    files = tuple(StoredFile(name, len(data), storage.digest_bytes(data)) for name, data in content.items())
    commit = Commit(step, step * 4, fingerprint, {"world_size": 2}, {"torch": "2"}, files)
    write_commit(run_uri, commit)
    return commit


@pytest.fixture(params=["local", "s3"])
def run_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    bucket: str = request.getfixturevalue("s3_bucket")
    return f"{bucket}/runs/one"


def test_a_record_is_read_back_as_it_was_written(run_uri: str) -> None:
    commit = committed(run_uri, 5)
    assert read_commit(run_uri, 5) == commit
    assert newest_commit(run_uri, RUN) == commit
    assert whole(run_uri, commit)
    assert damaged_files(run_uri, commit) == []


def test_an_empty_run_has_no_step(run_uri: str) -> None:
    assert written_steps(run_uri) == []
    assert newest_commit(run_uri, RUN) is None
    retain(run_uri, 2, 0)


def test_the_newest_comes_first_and_numbers_are_numbers(run_uri: str) -> None:
    for step in (2, 10, 99_999_999, 100_000_000, 3):
        committed(run_uri, step, content={})
    assert written_steps(run_uri) == [100_000_000, 99_999_999, 10, 3, 2]
    found = newest_commit(run_uri, RUN)
    assert found is not None
    assert found.step == 100_000_000


@pytest.mark.parametrize("left", [1, 0])
def test_a_step_that_was_set_aside_is_passed_over_but_not_forgotten(run_uri: str, left: int) -> None:
    steps = [committed(run_uri, step) for step in range(1, 2 + left)]
    set_aside(run_uri, steps[-1].step, ["one.safetensors: digest a, expected b"])
    if left:
        assert newest_commit(run_uri, RUN) == steps[0]
    else:
        with pytest.raises(CheckpointError, match=r"is intact: one\.safetensors: digest a.*to start anew"):
            newest_commit(run_uri, RUN)
    kept = storage.read_json(storage.join(step_uri(run_uri, steps[-1].step), "DAMAGED.json"))
    assert kept["commit"]["step"] == steps[-1].step


def test_a_step_without_its_record_is_none(run_uri: str) -> None:
    committed(run_uri, 1)
    committed(run_uri, 2)
    storage.delete(storage.join(step_uri(run_uri, 2), COMMIT))
    storage.write_text(storage.join(checkpoints_uri(run_uri), "latest"), "step-00000002")
    assert written_steps(run_uri) == [1]
    found = newest_commit(run_uri, RUN)
    assert found is not None
    assert found.step == 1


def test_folders_of_other_names_are_none(run_uri: str) -> None:
    record = json.dumps(asdict(committed(run_uri, 7)))
    for name in (
        "step-7",
        "step-000000007",
        "step-0000000x",
        "step-00000008.partial",
        "step-00000009/deep",
        "step--0000001",
    ):
        storage.write_text(storage.join(checkpoints_uri(run_uri), name, COMMIT), record)
    storage.write_text(storage.join(checkpoints_uri(run_uri), COMMIT), record)
    assert written_steps(run_uri) == [7]


FIRST, SECOND = sorted(CONTENT)
Damage = Callable[[str], None]


def _cut(length: int) -> Damage:
    return lambda base: storage.write_bytes(storage.join(base, SECOND), CONTENT[SECOND][:length])


def _record(**changes: object) -> Damage:
    def write(base: str) -> None:
        values = storage.read_json(storage.join(base, COMMIT)) | changes
        storage.write_text(storage.join(base, COMMIT), json.dumps(values))

    return write


def _text(data: bytes) -> Damage:
    return lambda base: storage.write_bytes(storage.join(base, COMMIT), data)


def _without(key: str) -> Damage:
    def write(base: str) -> None:
        values = storage.read_json(storage.join(base, COMMIT))
        del values[key]
        storage.write_text(storage.join(base, COMMIT), json.dumps(values))

    return write


DAMAGE: dict[str, Damage] = {
    "missing first": lambda base: storage.delete(storage.join(base, FIRST)),
    "missing second": lambda base: storage.delete(storage.join(base, SECOND)),
    **{f"cut to {length}": _cut(length) for length in (0, 1, 2, 8, 100, 500, 512, 1000, 1022, 1023)},
    "longer": lambda base: storage.write_bytes(storage.join(base, SECOND), CONTENT[SECOND] + b"x"),
    "no record": lambda base: storage.delete(storage.join(base, COMMIT)),
    "empty record": _text(b""),
    "half a record": _text(b'{"step": 2, "files": ['),
    "no text": _text(b"\xff\xfe\x00\x01"),
    "zeros": _text(b"\x00" * 64),
    "a list": _text(b"[]"),
    "a number": _text(b"7"),
    "null": _text(b"null"),
    "too deep": _text(b"[" * 100_000),
    "future version": _record(version=3),
    "version in words": _record(version="1"),
    "unknown key": _record(compression="zstd"),
    **{f"without {key}": _without(key) for key in ("step", "files", "fingerprint", "next_sample", "topology")},
    "of another step": _record(step=3),
    "files a number": _record(files=5),
    "files null": _record(files=None),
    "files names": _record(files=["a", "b"]),
    "file without digest": _record(files=[{"name": FIRST, "size": 100}]),
    "file with a key more": _record(files=[{"name": FIRST, "size": 100, "digest": "x", "mode": 7}]),
    "file name a number": _record(files=[{"name": 5, "size": 100, "digest": "x"}]),
    "size in words": _record(files=[{"name": FIRST, "size": "100", "digest": "x"}]),
    "wrong size": _record(files=[{"name": FIRST, "size": 99, "digest": "x"}]),
    "a file outside": _record(files=[{"name": "../step-00000001/" + FIRST, "size": 100, "digest": "x"}]),
    "an absolute file": _record(files=[{"name": "/etc/hostname", "size": 1, "digest": "x"}]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_step_is_passed_over(tmp_path: Path, damage: Damage) -> None:
    run_uri = str(tmp_path)
    good = committed(run_uri, 1)
    committed(run_uri, 2)
    damage(step_uri(run_uri, 2))
    assert newest_commit(run_uri, RUN) == good


@pytest.mark.parametrize("name", ["missing second", "cut to 1023", "no text", "future version", "a file outside"])
def test_a_damaged_step_is_passed_over_in_a_store(s3_bucket: str, name: str) -> None:
    good = committed(s3_bucket, 1)
    committed(s3_bucket, 2)
    DAMAGE[name](step_uri(s3_bucket, 2))
    assert newest_commit(s3_bucket, RUN) == good


@pytest.mark.parametrize(
    "damage", [d for n, d in DAMAGE.items() if n != "no record"], ids=[n for n in DAMAGE if n != "no record"]
)
def test_with_nothing_else_left_the_damage_is_said(tmp_path: Path, damage: Damage) -> None:
    """Starting anew by itself would write over what the user could still restore."""
    run_uri = str(tmp_path)
    committed(run_uri, 2)
    damage(step_uri(run_uri, 2))
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of .* is intact: .*step-00000002.*; restore it, or remove"
    ):
        newest_commit(run_uri, RUN)


def test_an_extra_file_does_no_harm(run_uri: str) -> None:
    commit = committed(run_uri, 1)
    storage.write_text(storage.join(step_uri(run_uri, 1), "state-00000-of-00002.partial-123"), "half")
    storage.write_text(storage.join(step_uri(run_uri, 1), "deep", COMMIT), "{}")
    assert newest_commit(run_uri, RUN) == commit


def test_the_record_of_another_run_is_refused_not_passed_over(run_uri: str) -> None:
    committed(run_uri, 1)
    committed(run_uri, 2, fingerprint="0" * 32)
    with pytest.raises(CheckpointError, match=r"checkpoints are of another recipe .*give this run another output"):
        newest_commit(run_uri, RUN)


def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an outage would make `retain` remove good steps."""
    run_uri = str(tmp_path)
    committed(run_uri, 1)
    committed(run_uri, 2)

    def out(uri: str) -> int:
        raise StorageError(f"cannot read {uri}: 503 after 60 tries")

    monkeypatch.setattr(storage, "size", out)
    with pytest.raises(StorageError, match="503"):
        newest_commit(run_uri, RUN)
    with pytest.raises(StorageError, match="503"):
        retain(run_uri, 1, 2)
    monkeypatch.undo()
    assert written_steps(run_uri) == [2, 1]


def test_a_step_goes_record_first(run_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(run_uri, 1)
    seen: list[str] = []
    delete, delete_tree = storage.delete, storage.delete_tree

    def watched_delete(uri: str) -> None:
        delete(uri)
        left = storage.list_files(step_uri(run_uri, 1))
        seen.append(f"deleted {uri.rpartition('/')[2]}, left {left}")

    def watched_tree(uri: str) -> None:
        seen.append("deleted the rest")
        delete_tree(uri)

    monkeypatch.setattr(storage, "delete", watched_delete)
    monkeypatch.setattr(storage, "delete_tree", watched_tree)
    remove_step(run_uri, 1)
    assert seen == [f"deleted {COMMIT}, left {[FIRST, SECOND]}", "deleted the rest"]
    assert storage.list_files(checkpoints_uri(run_uri)) == []
    remove_step(run_uri, 1)


def test_a_removal_cut_short_leaves_no_step(run_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good = committed(run_uri, 1)
    committed(run_uri, 2)

    def killed(uri: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "delete_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_step(run_uri, 2)
    monkeypatch.undo()
    assert newest_commit(run_uri, RUN) == good


def test_retention_removes_left_overs_and_a_lost_attempts_steps(run_uri: str) -> None:
    for step in (1, 2, 3, 9):
        committed(run_uri, step)
    storage.write_bytes(storage.join(step_uri(run_uri, 4), FIRST), b"never committed")
    storage.delete(storage.join(step_uri(run_uri, 3), FIRST))
    retain(run_uri, 2, newest=5)
    assert written_steps(run_uri) == [2, 1]
    committed(run_uri, 6)
    retain(run_uri, 2, newest=6)
    assert written_steps(run_uri) == [6, 2]
    files = storage.list_files(checkpoints_uri(run_uri))
    assert {name.split("/")[0] for name in files} == {"step-00000006", "step-00000002"}


class Killed(BaseException):
    """What a SIGKILL is to the code that it strikes: nothing catches it, nothing is put right."""


CHANGES = ("unlink", "rmdir", "mkdir", "replace", "open")
"""Calls of `os` by which a file system is changed, or made ready to be."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process die before change `number` (from 1) of the file system."""
    calls = iter(range(1, 1_000_000))

    def deadly(call: Callable[..., object]) -> Callable[..., object]:
        def strike(*arguments: object, **options: object) -> object:
            if next(calls) >= number:
                raise Killed
            return call(*arguments, **options)

        return strike

    for name in CHANGES:
        monkeypatch.setattr(os, name, deadly(getattr(os, name)))


def everything(folder: Path) -> list[str]:
    """Files and folders, those that are hidden or empty too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_no_kill_while_a_step_is_cleared_leaves_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder holds no file to be listed by, and stayed for ever."""
    number, ended = 0, False
    while not ended:
        number += 1
        run_uri = str(tmp_path / str(number))
        for step in (2, 4):
            committed(run_uri, step)
        killed_at(monkeypatch, number)
        try:
            retain(run_uri, 1, 4)
            ended = True
        except Killed:
            pass
        monkeypatch.undo()
        assert newest_commit(run_uri, RUN) == read_commit(run_uri, 4)
        retain(run_uri, 1, 4)
        left = [
            "checkpoints",
            "checkpoints/step-00000004",
            *(f"checkpoints/step-00000004/{n}" for n in (COMMIT, *CONTENT)),
        ]
        assert everything(Path(run_uri)) == sorted(left), f"killed at change {number}"
    assert number > 4, "the record, two files and the folder go one by one"


def test_no_kill_while_a_step_is_saved_leaves_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped at step 3 and killed as it saves goes on from 2, and may never save a step 3 again."""
    number, ended = 0, False
    while not ended:
        number += 1
        run_uri = str(tmp_path / str(number))
        committed(run_uri, 2)
        killed_at(monkeypatch, number)
        try:
            committed(run_uri, 3)
            ended = True
        except Killed:
            pass
        monkeypatch.undo()
        committed(run_uri, 4)
        retain(run_uri, 1, 4)
        assert [n for n in everything(Path(run_uri)) if "step-" in n and "step-00000004" not in n] == []
    assert number > 4


class History:
    """A store in memory that may lose or cut files at any time, and keeps its own books of what is whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.objects: dict[str, bytes] = {}
        for name in ("write_json", "read_text", "list_files", "list_folders", "size", "delete", "delete_tree"):
            monkeypatch.setattr(storage, name, getattr(self, name))

    def write_json(self, uri: str, value: object) -> None:
        self.objects[uri] = json.dumps(value).encode()

    def read_text(self, uri: str) -> str:
        if uri not in self.objects:
            raise storage.NotFoundError(uri)
        return self.objects[uri].decode()

    def list_files(self, uri: str) -> list[str]:
        return sorted(name.removeprefix(f"{uri}/") for name in self.objects if name.startswith(f"{uri}/"))

    def list_folders(self, uri: str) -> list[str]:
        return sorted({name.split("/")[0] for name in self.list_files(uri) if "/" in name})

    def size(self, uri: str) -> int:
        if uri not in self.objects:
            raise storage.NotFoundError(uri)
        return len(self.objects[uri])

    def delete(self, uri: str) -> None:
        self.objects.pop(uri, None)

    def delete_tree(self, uri: str) -> None:
        for name in self.list_files(uri):
            del self.objects[f"{uri}/{name}"]

    def whole_steps(self, saved: list[int]) -> list[int]:
        def good(step: int) -> bool:
            base = step_uri("run", step)
            files = [f"{base}/{number}" for number in range(2)]
            return f"{base}/{COMMIT}" in self.objects and all(len(self.objects.get(file, b"")) == 10 for file in files)

        return sorted((step for step in saved if good(step)), reverse=True)


def test_retention_keeps_the_newest_whole_steps_in_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(1000):
        draw = random.Random(seed)
        keep, step = draw.randint(1, 4), 0
        saved: list[int] = []
        store = History(monkeypatch)
        for _ in range(draw.randint(3, 12)):
            step += draw.randint(1, 5)
            base = step_uri("run", step)
            for number in range(2):
                store.objects[f"{base}/{number}"] = b"x" * 10
            if draw.random() < 0.15:  # killed before the commit
                continue
            write_commit("run", replace(EMPTY, step=step, files=TWO))
            saved.append(step)
            survivors = store.whole_steps(saved)
            retain("run", keep, step)
            assert store.whole_steps(saved) == survivors[:keep], f"seed {seed}, step {step}"
            assert written_steps("run") == survivors[:keep]
            if draw.random() < 0.3:  # something is lost or cut between two saves
                name = draw.choice(sorted(store.objects))
                if draw.random() < 0.5:
                    del store.objects[name]
                elif not name.endswith(COMMIT):
                    store.objects[name] = b"x" * draw.randint(0, 9)
        monkeypatch.undo()


EMPTY = Commit(0, 0, RUN, {}, {}, ())
TWO = tuple(StoredFile(str(number), 10, "digest") for number in range(2))


def test_one_flipped_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    run_uri = str(tmp_path)
    commit = committed(run_uri, 1)
    draw = random.Random(0)
    total = sum(map(len, CONTENT.values()))
    for position in sorted({0, total - 1, *draw.sample(range(total), 98)}):
        name, offset = (FIRST, position) if position < 100 else (SECOND, position - 100)
        data = bytearray(CONTENT[name])
        data[offset] ^= 1 << draw.randrange(8)
        uri = storage.join(step_uri(run_uri, 1), name)
        storage.write_bytes(uri, data)
        assert whole(run_uri, commit), "the size is right, so only the digest can tell"
        (problem,) = damaged_files(run_uri, commit)
        assert problem.startswith(f"{uri}: digest xxh3-128:")
        assert damaged_files(run_uri, commit, [n for n in CONTENT if n != name]) == []
        storage.write_bytes(uri, CONTENT[name])
    assert damaged_files(run_uri, commit) == []


def test_damage_in_a_store_is_found(s3_bucket: str) -> None:
    commit = committed(s3_bucket, 1)
    storage.write_bytes(storage.join(step_uri(s3_bucket, 1), FIRST), b"b" + CONTENT[FIRST][1:])
    storage.delete(storage.join(step_uri(s3_bucket, 1), SECOND))
    first, second = damaged_files(s3_bucket, commit)
    assert "digest" in first
    assert "does not exist" in second


def test_the_record_is_written_in_one_step(run_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of `storage.write_json`, which is atomic, and nothing else."""
    calls: list[str] = []
    monkeypatch.setattr(protocol.storage, "write_json", lambda uri, value: calls.append(uri))
    write_commit(run_uri, EMPTY)
    assert calls == [storage.join(step_uri(run_uri, 0), COMMIT)]
