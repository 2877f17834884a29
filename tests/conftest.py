"""Fixtures that more than one room's tests use."""

import os
import signal
from collections.abc import Callable, Iterator

# Before torch is imported, here and in child processes: two threads on busy cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests of Ctrl-C are to pass also where the shell has them ignore it (a background job of a script), as must the
# processes that they start; what longspan itself does there is a test of its own.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

from tests.s3 import Fault, FaultProxy, clean_environment, new_bucket, serve_moto

# How long an example takes says something about the machine's other work, and nothing about the code.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept of remote corpora and models goes with the session, for child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSPAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """URL of a mock S3 server; the environment points to it, also for child processes that start later (Ray workers).

    So ask for it before a fixture that starts Ray. It holds the data in memory and copies a whole object for every
    range that is read: keep objects below some 20 MiB.
    """
    with serve_moto() as url, pytest.MonkeyPatch.context() as patch:
        clean_environment(patch, url)
        yield url


@pytest.fixture
def s3_bucket(moto_server: str) -> str:
    """A fresh, empty bucket: "s3://bucket-..."."""
    return new_bucket(moto_server)


@pytest.fixture(scope="session")
def idle_proxy(moto_server: str) -> Iterator[FaultProxy]:
    """A proxy before the mock server, without faults; one for all tests: a new URL costs the client half a second."""
    proxy = FaultProxy(moto_server)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def fault_proxy(idle_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FaultProxy]]:
    """`fault_proxy(Fault("503", times=4), ...)` puts a proxy with these faults before the mock server.

    It is idle again after the test: Ray's workers always reach the server through it.
    """

    def start(*faults: Fault) -> FaultProxy:
        idle_proxy.set_faults(*faults)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", idle_proxy.url)
        return idle_proxy

    yield start
    idle_proxy.set_faults()
