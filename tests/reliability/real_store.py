"""What `longspan.storage` does with a real store, Ceph's object gateway, that is overloaded, hangs, or is restarted.

    python tests/reliability/real_store.py --tools DIR [--work DIR]

DIR holds four shell scripts: `get.sh WORK` unpacks Ceph to WORK/root, `start.sh ROOT DATA bluestore PORT` starts its
daemons with the S3 key "test" and the secret "testtest" and writes their ids (monitor, disk, gateway) to DATA/pids,
`restart.sh ROOT DATA PORT` starts them again on the same data, `stop.sh DATA` ends them. About a minute and a half.
Exit code 1 if a check fails. The suite has the same faults, made by a proxy, without the real store.
"""

# ruff: noqa: E402  (a script finds the package before it imports it)
import argparse
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "platform"))

from longspan import storage
from longspan.errors import StorageError
from tests.s3 import clean_environment, new_bucket

NUM_OBJECTS = 48
OBJECT_BYTES = 4 << 20
NUM_THREADS = 8
HANG_S = 6.0
POLICY = storage.RetryPolicy(budget_s=120.0, connect_timeout_s=2.0, read_timeout_s=2.0)


@dataclass(frozen=True)
class Store:
    """A running Ceph: where its scripts, programs and data are, and the bucket that the checks use."""

    tools: Path
    root: Path
    data: Path
    port: int
    bucket: str

    def pids(self) -> list[int]:
        return [int(line) for line in (self.data / "pids").read_text().split()]

    def script(self, name: str, *arguments: object) -> None:
        with open(self.data.parent / f"{name}.out", "ab") as log:
            command = ["bash", str(self.tools / name), *map(str, arguments)]
            subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)

    def set_option(self, name: str, value: int) -> None:
        """Change a setting of the running gateway, through its admin socket."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.data / "run" / "client.rgw.a.asok"))
            admin.sendall(json.dumps({"prefix": "config set", "var": name, "val": [str(value)]}).encode() + b"\0")
            assert "success" in admin.makefile("rb").read()[4:].decode()


@contextmanager
def running(tools: Path, work: Path, port: int) -> Iterator[Store]:
    """Start the store on new data; in the end its daemons are gone and so are the data."""
    store = Store(tools, work / "root", work / "data", port, "")
    store.data.mkdir(parents=True)
    try:
        if not store.root.exists():
            store.script("get.sh", work)
        store.script("start.sh", store.root, store.data, "bluestore", port)
        with pytest.MonkeyPatch.context() as patch:
            url = f"http://127.0.0.1:{port}"
            clean_environment(patch, url)
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testtest")
            yield Store(tools, store.root, store.data, port, new_bucket(url))
    finally:
        if (store.data / "pids").exists():
            store.script("stop.sh", store.data)
        shutil.rmtree(store.data)


class Retries(logging.Handler):
    """The retries that were logged, by their cause."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.causes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.causes.append(str(record.args[2]))


def content(index: int) -> bytes:
    return np.random.default_rng(index).bytes(OBJECT_BYTES)


def mebibytes_per_s(num_bytes: int, start_s: float) -> str:
    return f"{num_bytes / 2**20 / (time.monotonic() - start_s):.0f} MiB/s"


def check_objects(store: Store, retries: Retries) -> str:
    """Put, get, ranges, listings; leaves the objects that the later checks read."""
    folder = storage.join(store.bucket, "many")
    names = [f"{index:03d}" for index in range(NUM_OBJECTS)]
    start_s = time.monotonic()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(lambda name: storage.write_bytes(storage.join(folder, name), content(int(name))), names))
    written = mebibytes_per_s(NUM_OBJECTS * OBJECT_BYTES, start_s)
    assert storage.list_sizes(folder) == dict.fromkeys(names, OBJECT_BYTES)
    assert storage.list_files(store.bucket) == [f"many/{name}" for name in names]
    assert storage.list_folders(store.bucket) == ["many"]
    start_s = time.monotonic()
    read_all(store, lambda num_read: None)
    read = mebibytes_per_s(NUM_OBJECTS * OBJECT_BYTES, start_s)
    uri, data = storage.join(folder, "000"), content(0)
    spans = [(start, start + 65_536) for start in range(0, OBJECT_BYTES - 65_536, 131_072)]
    start_s = time.monotonic()
    assert storage.read_ranges(uri, spans) == [data[start:end] for start, end in spans]
    ranges_s = time.monotonic() - start_s
    start_s = time.monotonic()
    assert storage.read_bytes(uri, 1_000_000, 1_065_536) == data[1_000_000:1_065_536]
    range_ms = 1000 * (time.monotonic() - start_s)
    storage.write_bytes(storage.join(store.bucket, "gone"), b"x")
    storage.delete(storage.join(store.bucket, "gone"))
    assert not storage.exists(storage.join(store.bucket, "gone"))
    return f"write {written}, read {read}, a 64 KiB range {range_ms:.0f} ms, {len(spans)} of them {ranges_s:.2f} s"


def check_parts(store: Store, retries: Retries) -> str:
    uri, data = storage.join(store.bucket, "large"), np.random.default_rng(0).bytes(100 << 20)
    start_s = time.monotonic()
    storage.write_bytes(uri, data)
    written, start_s = mebibytes_per_s(len(data), start_s), time.monotonic()
    assert storage.read_bytes(uri, digest=storage.digest_bytes(data)) == data
    return f"100 MiB in parts: write {written}, read {mebibytes_per_s(len(data), start_s)}"


def check_parquet(store: Store, retries: Retries) -> str:
    sink, uri = io.BytesIO(), storage.join(store.bucket, "a.parquet")
    pq.write_table(pa.table({"ids": np.arange(50_000)}), sink, row_group_size=5_000)
    storage.write_bytes(uri, sink.getvalue())
    filesystem, path = storage.arrow_filesystem(uri)
    with storage.open_input(uri) as file, filesystem.open_input_file(path) as other:
        groups = [pq.ParquetFile(source).read_row_group(3).column("ids") for source in (file, other)]
    assert all(group.to_pylist() == list(range(15_000, 20_000)) for group in groups)
    return "a row group through open_input and through Arrow's own client"


def check_wrong_secret(store: Store, retries: Retries) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        with pytest.raises(StorageError) as caught:
            storage.read_bytes(storage.join(store.bucket, "large"), 0, 10)
    text = str(caught.value)
    assert "refused the credentials (403 SignatureDoesNotMatch); renew them" in text
    assert "\n" not in text
    assert "not-the-secret" not in text
    return text.partition("; ")[0].rpartition("/large: ")[2]


def check_overload(store: Store, retries: Retries) -> str:
    def overload(num_read: int) -> None:
        if num_read == NUM_OBJECTS // 4:
            store.set_option("rgw_max_concurrent_requests", 2)

    try:
        read_all(store, overload)
    finally:
        store.set_option("rgw_max_concurrent_requests", 1024)
    num = sum("503 SlowDown" in cause for cause in retries.causes)
    assert num > 0, retries.causes
    return f"{num} answers 503 SlowDown survived"


def check_hang(store: Store, retries: Retries) -> str:
    """The disk daemon stops, so that the gateway takes requests and does not answer them."""
    disk = store.pids()[1]
    waiting: list[threading.Timer] = []

    def hang(num_read: int) -> None:
        if num_read == NUM_OBJECTS // 4:
            os.kill(disk, signal.SIGSTOP)
            waiting.append(threading.Timer(HANG_S, os.kill, (disk, signal.SIGCONT)))
            waiting[0].start()

    try:
        read_all(store, hang)
    finally:
        for timer in waiting:
            timer.join()
    assert retries.causes, "nothing timed out"
    return f"{len(retries.causes)} time-outs survived in a hang of {HANG_S:.0f} s"


def check_restart(store: Store, retries: Retries) -> str:
    """All daemons are killed in mid-read and started again; then all is read once more, also what was just written."""
    restarts: list[threading.Thread] = []

    def restart() -> None:
        for pid in store.pids():
            os.kill(pid, signal.SIGKILL)
        store.script("restart.sh", store.root, store.data, store.port)

    def kill(num_read: int) -> None:
        if num_read == NUM_OBJECTS // 4:
            storage.write_bytes(storage.join(store.bucket, "just-before"), b"kept")
            restarts.append(threading.Thread(target=restart))
            restarts[0].start()

    try:
        read_all(store, kill)
    finally:
        for thread in restarts:
            thread.join()
    assert retries.causes, "nothing failed"
    assert storage.read_bytes(storage.join(store.bucket, "just-before")) == b"kept"
    return f"{len(retries.causes)} failed tries survived"


def read_all(store: Store, after: Callable[[int], None]) -> None:
    """Read and prove every object, from several threads; `after(how many)` is called after each."""
    lock, num_read = threading.Lock(), 0

    def read(index: int) -> None:
        nonlocal num_read
        data = storage.read_bytes(storage.join(store.bucket, "many", f"{index:03d}"))
        assert data == content(index), f"object {index} is wrong"
        with lock:
            num_read += 1
            after(num_read)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(read, range(NUM_OBJECTS)))


CHECKS: dict[str, Callable[[Store, Retries], str]] = {
    "put, get, range, list": check_objects,
    "multipart": check_parts,
    "Parquet": check_parquet,
    "wrong secret": check_wrong_secret,
    "503 SlowDown in mid-read": check_overload,
    "hang in mid-read": check_hang,
    "kill -9 and restart in mid-read": check_restart,
}


def run_checks(store: Store, table: Table) -> int:
    """Add a row for each check; returns how many failed."""
    log = logging.getLogger("longspan.storage.retry")
    log.setLevel(logging.INFO)
    log.propagate = False
    num_failed = 0
    for name, check in CHECKS.items():
        retries = Retries()
        log.addHandler(retries)
        start_s = time.monotonic()
        try:
            with storage.use_policy(POLICY):
                verdict, outcome = "[green]right[/]", check(store, retries)
        except Exception as error:
            num_failed += 1
            verdict, outcome = "[red]WRONG[/]", f"{type(error).__name__}: {error}"
        log.removeHandler(retries)
        table.add_row(name, verdict, f"{time.monotonic() - start_s:.1f}", str(len(retries.causes)), outcome)
    return num_failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder with get.sh, start.sh, restart.sh, stop.sh")
    parser.add_argument("--work", type=Path, help="where Ceph is unpacked, and kept for the next time")
    parser.add_argument("--port", type=int, default=7480)
    options = parser.parse_args()
    table = Table("check", "verdict", "seconds", "retries", "outcome")
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).absolute()
        with running(options.tools.absolute(), work, options.port) as store:
            start_up_s = time.monotonic() - start_s
            num_failed = run_checks(store, table)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    num_right = len(CHECKS) - num_failed
    seconds = time.monotonic() - start_s
    console.print(f"{num_right} of {len(CHECKS)} checks right in {seconds:.0f} s, {start_up_s:.0f} s of it to start")
    return 0 if num_failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
