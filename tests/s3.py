"""A mock S3 server and a proxy that damages its answers, for the tests of every room that reads or writes a store.

Faults are declared as data, counted as they happen, and the count is asserted at the end, so no test passes because its
fault never struck: `proxy = fault_proxy(Fault("503", times=4)); ...; assert proxy.struck == {"503": 4}`.
"""

import asyncio
import functools
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import botocore.session
import pytest
from aiohttp import web
from yarl import URL

KINDS = ("500", "503", "403", "404", "expired", "reset", "lost", "truncate", "stall", "slow", "flip", "etag")
_OF_A_BODY = ("truncate", "stall", "slow", "flip")
_ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "403": (403, "AccessDenied", "Access Denied"),
    "404": (404, "NoSuchKey", "The specified key does not exist."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}


@dataclass(frozen=True)
class Fault:
    """One kind of fault and the requests that it strikes.

    500, 503, 403, 404, expired: that error instead of the request. reset: the connection is reset before it is passed
    on. lost: it is carried out, then the connection is reset. truncate: half of the body, then a reset. stall: half of
    the body, then silence. slow: `bytes_per_s`. flip: one bit of the body, drawn by `seed`, is wrong. These four pass
    by an empty body. etag: right after an answer with a part of it the object is replaced, by its bytes back to front.
    """

    kind: str
    times: int | None = None
    """Strike this many requests, then no more; None = every one."""
    probability: float = 1.0
    method: str = ""
    """Only requests with this HTTP method."""
    path: str = ""
    """Only requests with this text in path or query."""
    seed: int = 0
    bytes_per_s: int = 1000

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"{self.kind} is not one of {KINDS}"


class FaultProxy:
    """A reverse proxy in a thread. `struck` counts faults by kind; `num_requests` and `num_body_bytes` all traffic."""

    def __init__(self, upstream: str, *faults: Fault) -> None:
        self.upstream = upstream
        self.set_faults(*faults)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def set_faults(self, *faults: Fault) -> None:
        """Strike with these from now on, and count from zero."""
        self.faults = faults
        self.struck: Counter[str] = Counter()
        self.num_requests = 0
        self.num_body_bytes = 0
        self._left = [fault.times for fault in faults]
        self._random = [random.Random(fault.seed) for fault in faults]

    def start(self) -> str:
        """Serve, and return the URL."""
        self._thread.start()
        assert self._started.wait(10), "the proxy did not start"
        return self.url

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the proxy did not stop"
        self._loop.close()

    async def _serve(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()
        await self._session.close()

    def _draw(self, request: web.Request, status: int | None = None, has_body: bool = False) -> Fault | None:
        """The fault that strikes this request now: before it is passed on (no status), or when its answer is known."""
        for index, fault in enumerate(self.faults):
            is_late = fault.kind in (*_OF_A_BODY, "lost", "etag")
            if is_late == (status is None) or (fault.kind in _OF_A_BODY and not has_body) or self._left[index] == 0:
                continue
            if fault.kind == "etag" and (request.method != "GET" or status != 206):
                continue
            if fault.method not in ("", request.method) or fault.path not in request.raw_path:
                continue
            if self._random[index].random() >= fault.probability:
                continue
            left = self._left[index]
            self._left[index] = None if left is None else left - 1
            self.struck[fault.kind] += 1
            return fault
        return None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.num_requests += 1
        fault = self._draw(request)
        if fault is not None and fault.kind in _ERRORS:
            await request.read()
            return _error(request, *_ERRORS[fault.kind])
        if fault is not None:
            return _reset(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_A_CONNECTION}
        body = await request.read()
        url = URL(self.upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False, skip_auto_headers=["Content-Type"]
        ) as answer:
            content = await answer.read()
            return await self._answer(request, answer, content)

    async def _answer(self, request: web.Request, answer: aiohttp.ClientResponse, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in _OF_A_CONNECTION:
                response.headers.add(name, value)
        fault = self._draw(request, answer.status, bool(content))
        kind = "" if fault is None else fault.kind
        if kind == "lost":
            return _reset(request)
        if fault is not None and kind == "flip":
            place = random.Random(f"{fault.seed} {self.struck[kind]}").randrange(8 * len(content))
            content = (int.from_bytes(content, "little") ^ (1 << place)).to_bytes(len(content), "little")
        if kind == "etag":
            await self._replace(request)
        await response.prepare(request)
        if kind in ("truncate", "stall"):
            await self._send(response, content[: len(content) // 2])
            await asyncio.sleep(0.05 if kind == "truncate" else 3600)  # the half has to be read before the reset
            return _reset(request)
        if fault is not None and kind == "slow":
            for start in range(0, len(content), max(1, fault.bytes_per_s // 20)):
                await self._send(response, content[start : start + max(1, fault.bytes_per_s // 20)])
                await asyncio.sleep(0.05)
        else:
            await self._send(response, content)
        await response.write_eof()
        return response

    async def _send(self, response: web.StreamResponse, content: bytes) -> None:
        # Counted before the last byte is out, so that whoever has it finds it counted.
        self.num_body_bytes += len(content)
        if content:
            await response.write(content)

    async def _replace(self, request: web.Request) -> None:
        bucket, _, key = request.path.removeprefix("/").partition("/")

        def turn_round() -> None:
            client = raw_client(self.upstream)
            content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            client.put_object(Bucket=bucket, Key=key, Body=content[::-1])

        await asyncio.to_thread(turn_round)


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        linger_not = struct.pack("ii", 1, 0)  # an abrupt end (RST), not an orderly one (FIN)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        request.transport.abort()
    return web.Response()


def _error(request: web.Request, status: int, code: str, message: str) -> web.Response:
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = b"" if request.method == "HEAD" else text.encode()
    return web.Response(status=status, body=body, content_type="application/xml")


@contextmanager
def serve_moto() -> Iterator[str]:
    """Run moto's server in a process of its own; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(600):
        assert process.poll() is None, "moto's server ended; is moto[s3] installed with flask and flask-cors?"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("moto's server did not start in 60 s")


def clean_environment(patch: pytest.MonkeyPatch, url: str) -> None:
    """Point the standard AWS variables to the server at `url`, and hide any real account of this machine."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_ENDPOINT_URL_S3", url)
    patch.setenv("AWS_ACCESS_KEY_ID", "mock-key-id")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "mock-secret-key")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_CONFIG_FILE", "/dev/null")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")


@functools.cache  # half a second each; threads may share one
def raw_client(url: str) -> "botocore.client.BaseClient":
    """A plain S3 client that shares no code with longspan, to arrange and to check."""
    return botocore.session.Session().create_client("s3", endpoint_url=url, region_name="us-east-1")


def new_bucket(url: str) -> str:
    """Make an empty bucket at the server `url`; returns "s3://bucket-..."."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    raw_client(url).create_bucket(Bucket=name)
    return f"s3://{name}"
