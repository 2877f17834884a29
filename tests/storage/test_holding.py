"""Holding an output: nested drivers, workers, every kind of write after the lease is lost, standstill and death."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.errors import HeldError, LaunchError, LeaseLostError
from longspan.storage import holding
from longspan.storage.lease import acquire, new_holder, release
from longspan.uri import parse
from tests.leases import dead, everything, someone
from tests.s3 import Fault, FaultProxy


def take_over(root: str) -> None:
    """As another machine does it."""
    acquire(parse(root), someone(), take_over=True, wait=lambda _: None)


def in_a_thread(call: Callable[[], object]) -> object:
    """What the call returns, or raises, where this thread's leases are not its own."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def held(uri: str) -> str:
    with storage.hold(uri, "train"):
        return "held"


def test_it_is_no_part_of_the_output(root: str) -> None:
    with storage.hold(root, "train"):
        assert everything(parse(root)) != []
        assert not storage.exists(root)
        assert storage.list_files(root) == storage.list_files(root, recursive=False) == storage.list_folders(root) == []
        storage.write_text(f"{root}/a/b.txt", "text")
        assert storage.list_files(root) == ["a/b.txt"]
        assert storage.list_sizes(root) == {"a/b.txt": 4}
        assert storage.list_folders(root) == ["a"]
        storage.clear_unfinished(root)
    assert storage.list_files(root) == ["a/b.txt"]
    assert [name for name in everything(parse(root)) if "lease" in name] == []


def test_whoever_is_refused_later_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LaunchError), storage.hold(tmp_path / "a" / "b", "train"):
        raise LaunchError("no cluster")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", [LaunchError, KeyboardInterrupt, SystemExit])
def test_it_is_let_go_whatever_happens(root: str, end: type[BaseException]) -> None:
    with pytest.raises(end), storage.hold(root, "train"):
        raise end("the end")
    assert everything(parse(root)) == []


def test_what_lies_inside_is_covered(root: str) -> None:
    with storage.hold(root, "pipeline"):
        before = everything(parse(root))
        with storage.hold(root, "train"), storage.hold(f"{root}/01-extend", "train"):
            assert everything(parse(root)) == before
            storage.write_text(f"{root}/01-extend/a", "text")


def test_another_driver_is_refused_at_around_and_inside(root: str) -> None:
    with storage.hold(f"{root}/line", "pipeline"):
        for uri in (f"{root}/line", f"{root}/line/01-extend", f"{root}/line/trials/7"):
            refused = in_a_thread(lambda uri=uri: held(uri))
            assert isinstance(refused, HeldError)
            assert f"{root}/line is in use" in str(refused)
        assert in_a_thread(lambda: held(f"{root}/line-2")) == "held"
    with storage.hold(f"{root}/line/01-extend", "train"):

        def pipeline() -> None:
            with storage.hold(f"{root}/line", "pipeline"):
                held(f"{root}/line/01-extend")

        assert isinstance(in_a_thread(pipeline), HeldError)


def test_a_killed_drivers_leases_inside_do_not_keep_one_out(root: str) -> None:
    acquire(parse(f"{root}/01-extend"), dead())
    with storage.hold(root, "pipeline"), storage.hold(f"{root}/01-extend", "train"):
        pass
    assert everything(parse(root)) == ([] if storage.is_remote(root) else ["01-extend"])


WRITES: dict[str, Callable[[str, Path], object]] = {
    "bytes": lambda root, _: storage.write_bytes(f"{root}/new", b"x"),
    "text": lambda root, _: storage.write_text(f"{root}/old", "x"),
    "json": lambda root, _: storage.write_json(f"{root}/new", {}),
    "a large object": lambda root, _: storage.write_bytes(f"{root}/new", bytes(9 << 20)),
    "upload": lambda root, file: storage.upload_file(file, f"{root}/new"),
    "upload of a tree": lambda root, file: storage.upload_tree(file.parent, f"{root}/new"),
    "delete": lambda root, _: storage.delete(f"{root}/old"),
    "delete a tree": lambda root, _: storage.delete_tree(f"{root}"),
}


@pytest.mark.parametrize("kind", WRITES)
def test_nothing_is_written_once_it_is_lost(root: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "files" / "file"
    file.parent.mkdir()
    file.write_bytes(b"content")

    def work() -> None:
        storage.write_text(f"{root}/old", "old")
        take_over(root)
        before[:] = everything(parse(root))
        WRITES[kind](root, file)

    before: list[str] = []
    with (
        pytest.raises(LeaseLostError, match=r"taken over by 'longspan train recipe\.yaml'"),
        storage.hold(root, "train"),
    ):
        work()
    assert everything(parse(root)) == before
    assert storage.read_text(f"{root}/old") == "old"
    storage.write_text(f"{root}/old", "who holds nothing is not asked")


def test_a_file_that_took_long_does_not_appear(tmp_path: Path) -> None:
    root = str(tmp_path / "run")

    def work() -> None:
        with storage.local.replacing(f"{root}/state") as temporary:
            Path(temporary).write_bytes(b"hours of work")
            take_over(root)

    with pytest.raises(LeaseLostError), storage.hold(root, "train"):
        work()
    assert storage.list_files(root) == []


def test_an_upload_that_took_long_does_not_appear(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root, parts = f"{s3_bucket}/run", storage.s3.in_parallel

    def slow(*arguments: object) -> object:
        found = parts(*arguments)
        take_over(root)
        return found

    monkeypatch.setattr(storage.s3, "in_parallel", slow)
    with pytest.raises(LeaseLostError), storage.hold(root, "train"):
        storage.write_bytes(f"{root}/state", bytes(9 << 20))
    assert storage.list_files(root) == []


def test_what_a_lost_lease_leads_to_is_said_as_the_cause(root: str) -> None:
    def work() -> None:
        take_over(root)
        raise LaunchError("the workers failed more than 3 times")

    with pytest.raises(LeaseLostError, match="writes nothing more"), storage.hold(root, "train"):
        work()


def test_an_output_that_is_removed_ends_its_driver(tmp_path: Path) -> None:
    root = tmp_path / "run"

    def work() -> None:
        storage.delete_tree(root)
        storage.write_text(root / "summary.json", "{}")

    with pytest.raises(LeaseLostError, match="or the output was removed"), storage.hold(root, "train"):
        work()
    assert not root.exists()


def test_the_flag_takes_it_over(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSPAN_LEASE_EXPIRY_S", "4")  # of which a quarter is waited for

    def second() -> str:
        with storage.taking_over(True):
            return held(root)

    def first() -> None:
        assert isinstance(in_a_thread(lambda: held(root)), HeldError)
        assert in_a_thread(second) == "held"
        storage.write_text(f"{root}/a", "text")

    with pytest.raises(LeaseLostError), storage.hold(root, "train"):
        first()


def write_there(uri: str) -> str:
    storage.write_text(uri, "text")
    return held(uri.rpartition("/")[0])


def test_a_worker_writes_in_the_drivers_name(root: str) -> None:
    with storage.hold(root, "sweep"):
        call = pickle.loads(pickle.dumps(storage.carried(write_there)))
        assert in_a_thread(lambda: call(f"{root}/trials/a")) == "held"
        assert isinstance(in_a_thread(lambda: write_there(f"{root}/trials/b")), HeldError), "an outsider"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(call, (f"{root}/trials/c",)) == "held"
        with storage.adopted(storage.current_leases()):
            assert len(storage.current_leases()) == 1
        take_over(root)
        before = everything(parse(root))
        assert isinstance(in_a_thread(lambda: call(f"{root}/trials/d")), LeaseLostError)
        assert everything(parse(root)) == before


def test_a_worker_that_is_at_work_is_refused_too(root: str) -> None:
    def work() -> None:
        take_over(root)
        storage.write_text(f"{root}/late", "text")

    with storage.hold(root, "train"):
        call = storage.carried(work)
        assert isinstance(in_a_thread(call), LeaseLostError)
    assert storage.list_files(root) == []


DRIVER = """
import sys, time
from longspan import storage
with storage.hold(sys.argv[1], "train"):
    storage.write_text(sys.argv[1] + "/begun", "text")
    print("begun", flush=True)
    sys.stdin.readline()
    storage.write_text(sys.argv[1] + "/ended", "text")
"""


def driver(root: str, expiry_s: float) -> "subprocess.Popen[str]":
    """Holds `root` and writes a second file when it is told to; returned when it holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, root],
        env={**os.environ, "LONGSPAN_LEASE_EXPIRY_S": str(expiry_s)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_killed_drivers_output_is_free_at_once(root: str) -> None:
    process = driver(root, 1000)
    assert isinstance(in_a_thread(lambda: held(root)), HeldError)
    process.kill()
    process.communicate()
    assert held(root) == "held"
    assert storage.list_files(root) == ["begun"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_driver_that_stood_still_is_refused_when_it_wakes(root: str, kept: bool) -> None:
    """Whether the one that came meanwhile is still there or has ended."""
    process = driver(root, 2)
    process.send_signal(signal.SIGSTOP)
    until = time.monotonic() + 60
    while True:
        try:
            lease = acquire(parse(root), new_holder("train", "longspan train again"))
            break
        except HeldError:
            assert time.monotonic() < until
            time.sleep(0.2)
    storage.write_text(f"{root}/theirs", "text")
    if not kept:
        release(lease)
    before = everything(parse(root))
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate("go\n")
    assert process.returncode == 1
    assert ("taken over by 'longspan train again'" if kept else "by one that has ended since") in errors
    assert everything(parse(root)) == before
    assert storage.list_files(root) == ["begun", "theirs"]


def test_a_driver_that_stood_still_and_was_not_missed_goes_on(root: str) -> None:
    process = driver(root, 1)
    process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    process.send_signal(signal.SIGCONT)
    process.communicate("go\n")
    assert process.returncode == 0
    assert storage.list_files(root) == ["begun", "ended"]


def test_a_heartbeat_that_fails_is_tried_again_and_said(
    s3_bucket: str, fault_proxy: Callable[..., FaultProxy], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("LONGSPAN_LEASE_EXPIRY_S", "8")
    proxy = fault_proxy()
    with storage.hold(f"{s3_bucket}/run", "train"):
        proxy.set_faults(Fault("403", times=3, path=".longspan-lease"))
        until = time.monotonic() + 60
        while proxy.struck["403"] < 3 or proxy.num_requests < 8:
            assert time.monotonic() < until
            time.sleep(0.05)
        storage.write_text(f"{s3_bucket}/run/a", "still ours")
    assert "no heartbeat for" in caplog.text


def test_the_thread_gives_signs_of_life(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSPAN_LEASE_EXPIRY_S", "1")
    beats = threading.Semaphore(0)
    renew = holding.renew

    def counted(lease: object) -> None:
        renew(lease)  # type: ignore[arg-type]
        beats.release()

    monkeypatch.setattr(holding, "renew", counted)
    with storage.hold(root, "train"):
        for _ in range(3):
            assert beats.acquire(timeout=60)
    assert threading.enumerate() == [thread for thread in threading.enumerate() if thread.name != "longspan-lease"]
