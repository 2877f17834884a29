"""The S3 client: one s3fs instance per process and environment, and one request through it under the retry policy.

Only s3fs's session, event loop and signing are used; its own retries, listing cache and instance cache are off.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longspan.errors import StorageError
from longspan.storage.failures import TooSlowError, error_status, understand
from longspan.storage.retry import RetryPolicy, call_with_retries, get_policy
from longspan.uri import Location, hide_credentials

if TYPE_CHECKING:
    from s3fs import S3FileSystem

# Whatever of the environment decides where requests go and who signs them: another value means another client.
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CA_BUNDLE",
)
_MAX_CONNECTIONS = 64
_READ_BYTES = 1 << 20

# Not emptied after a fork, only looked up under another process id: closing the parent's clients in a child would take
# the parent's sockets out of the epoll set that both share.
_clients: dict[tuple[object, ...], "S3FileSystem"] = {}


@dataclass(frozen=True, slots=True)
class Reply:
    """A store's answer: HTTP `status`, the parsed fields by their API names, and the body if the request has one."""

    status: int
    fields: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True)
class Download:
    """Bytes [start, stop) of an object on their way; `etag` is the version that they must be of, "" for any.

    What a try received before it broke off stays, and the next one asks for the rest of that version only: so a store
    that cuts every answer short is still read to the end, and no byte is paid for twice.
    """

    start: int
    stop: int
    etag: str = ""
    pieces: list[bytes] = field(default_factory=list)

    @property
    def num_received(self) -> int:
        return sum(map(len, self.pieces))

    def fields(self) -> dict[str, Any]:
        """What a request for the rest says."""
        if self.num_received == self.stop - self.start:  # there is no range for nothing
            self.pieces[-1] = self.pieces[-1][:-1]
        condition = {"IfMatch": self.etag} if self.etag else {}
        return {"Range": f"bytes={self.start + self.num_received}-{self.stop - 1}", **condition}

    def keep(self, received: list[tuple[str, bytes]]) -> None:
        """Add the pieces that a broken try leaves, each with its ETag; without one they might be of any version."""
        for etag, piece in tuple(received):
            if etag and etag == (self.etag or etag):
                self.etag = etag
                self.pieces.append(piece)


def region() -> str | None:
    """The region named by the environment. botocore itself reads AWS_DEFAULT_REGION alone, Arrow reads both."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def endpoint() -> str | None:
    """The URL of the store named by the environment, None for AWS. Raises StorageError if it is not one."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := os.environ.get(name):
            if not re.match(r"https?://[^/]", url):
                raise StorageError(f"{name}={hide_credentials(url)} is not an endpoint; write http(s)://host:port")
            return url
    return None


def request(
    verb: str,
    location: Location,
    method: str,
    *,
    num_bytes: int = 0,
    accept: Collection[int] = (),
    policy: RetryPolicy | None = None,
    download: Download | None = None,
    **fields: Any,
) -> Reply:
    """One S3 API call ("get_object") on the bucket of `location`, tried until the policy's budget is spent.

    `fields` are its parameters without Bucket. `num_bytes` is how much it moves at most, for the deadline of a try.
    A status in `accept` (such as 404) is an answer and not a failure. `policy` defaults to that of the process.
    With `download` the body is read, and broken tries are gone on with. Raises StorageError, NotFoundError.
    """
    policy = policy or get_policy()
    timeout_s = policy.attempt_timeout_s(num_bytes)
    if location.is_anonymous and verb in ("write", "delete"):
        raise StorageError(f"cannot {verb} {location.uri}: anonymous@ is for reading; give the bucket without it")
    key = _client_key(policy, location.is_anonymous)
    clients: list[S3FileSystem] = []

    def attempt() -> Reply:
        import fsspec.asyn

        clients[:] = [_client(key, policy, location.is_anonymous)]
        received: list[tuple[str, bytes]] = []  # a list for each try: one that timed out may not have ended yet
        now = fields if download is None else fields | download.fields()
        body = None if download is None else received
        try:
            answer: dict[str, Any] = fsspec.asyn.sync(
                clients[0].loop, _call, clients[0], method, body, timeout=timeout_s, Bucket=location.bucket, **now
            )
        except Exception as exception:
            if download is not None:
                download.keep(received)
            if isinstance(exception, fsspec.asyn.FSTimeoutError):
                raise TooSlowError(f"no complete answer within {timeout_s:.1f} s") from exception
            status = error_status(exception)
            if status is None or status not in accept:
                raise
            return Reply(status)
        pieces = [] if download is None else download.pieces
        data = b"".join([*pieces, *(piece for _, piece in received)])
        return Reply(int(answer["ResponseMetadata"]["HTTPStatusCode"]), answer, data)

    return call_with_retries(
        attempt,
        policy=policy,
        doing=f"{verb} {location.uri}",
        understand=lambda exception: understand(exception, verb, location),
        log_in_again=lambda: _forget(key, clients[0]),
    )


async def _call(
    client: "S3FileSystem", method: str, received: list[tuple[str, bytes]] | None, **fields: Any
) -> dict[str, Any]:
    # The public call_s3 is this coroutine run to its end; the body has to be read on the same event loop as well.
    answer: dict[str, Any] = await client._call_s3(method, **fields)
    if received is not None:
        try:
            while piece := await answer["Body"].read(_READ_BYTES):
                received.append((str(answer.get("ETag", "")), piece))
        finally:
            answer["Body"].close()
    return answer


def _client_key(policy: RetryPolicy, is_anonymous: bool) -> tuple[object, ...]:
    environment = tuple(os.environ.get(name) for name in _ENVIRONMENT)
    return (os.getpid(), policy.connect_timeout_s, policy.read_timeout_s, is_anonymous, environment)


def _client(key: tuple[object, ...], policy: RetryPolicy, is_anonymous: bool) -> "S3FileSystem":
    client = _clients.get(key)
    if client is None:
        # Two threads may both make one; setdefault keeps a single winner, and the other never connected.
        client = _clients.setdefault(key, _new_client(policy, is_anonymous))
    return client


def _forget(key: tuple[object, ...], client: "S3FileSystem") -> None:
    if _clients.get(key) is client:  # and not one that another thread has made with new credentials meanwhile
        _clients.pop(key, None)


def _new_client(policy: RetryPolicy, is_anonymous: bool) -> "S3FileSystem":
    from s3fs import S3FileSystem

    name = region()
    client = S3FileSystem(
        asynchronous=False,
        anon=is_anonymous,
        endpoint_url=endpoint(),
        skip_instance_cache=True,
        use_listings_cache=False,
        client_kwargs={"region_name": name} if name else {},
        config_kwargs={
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": policy.connect_timeout_s,
            "read_timeout": policy.read_timeout_s,
            "max_pool_connections": _MAX_CONNECTIONS,
            # Uploads carry Content-MD5 instead, which every store checks; newer checksums make older stores answer 411.
            "request_checksum_calculation": "when_required",
        },
    )
    client.retries = 1
    return client
