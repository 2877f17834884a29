"""What every kind of exception of the S3 client is taken for."""

import aiohttp
import botocore.exceptions as botocore_errors
import pytest

from longspan.errors import StorageError
from longspan.storage import NotFoundError
from longspan.storage.failures import TooSlowError, error_status, understand
from longspan.uri import Location

_PLACE = Location("bucket", "a/b")


def _answer(status: int, code: str, message: str | None = "a message") -> OSError:
    """What s3fs raises for such an answer: an OSError whose cause is botocore's."""
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = OSError(message)
    error.__cause__ = botocore_errors.ClientError(response, "GetObject")
    return error


@pytest.mark.parametrize(
    "exception",
    [
        _answer(503, "SlowDown"),
        _answer(500, "InternalError"),
        _answer(502, "502"),
        _answer(504, "504", None),
        _answer(429, "TooManyRequests"),
        _answer(400, "RequestTimeout"),
        _answer(400, "BadDigest"),
        _answer(409, "OperationAborted"),
        ConnectionResetError("reset"),
        TimeoutError(),
        TooSlowError("no complete answer"),
        aiohttp.ClientPayloadError("payload"),
        aiohttp.ServerDisconnectedError(),
        botocore_errors.EndpointConnectionError(endpoint_url="http://host"),
        botocore_errors.ReadTimeoutError(endpoint_url="http://host"),
        botocore_errors.ConnectionClosedError(endpoint_url="http://host"),
    ],
    ids=lambda exception: f"{type(exception).__name__} {exception}",
)
def test_transient(exception: Exception) -> None:
    failure = understand(exception, "read", _PLACE)
    assert failure.is_transient
    assert "None" not in failure.reason
    assert failure.reason


@pytest.mark.parametrize(
    ("exception", "verb", "text"),
    [
        (_answer(404, "NoSuchKey"), "read", "cannot read s3://bucket/a/b: it does not exist"),
        (_answer(404, "404"), "read", "cannot read s3://bucket/a/b: it does not exist"),
        (_answer(404, "NoSuchBucket"), "list", "cannot list s3://bucket/a/b: bucket 'bucket' does not exist at this"),
    ],
)
def test_not_found(exception: Exception, verb: str, text: str) -> None:
    failure = understand(exception, verb, _PLACE)
    assert isinstance(failure.error, NotFoundError)
    assert str(failure.error).startswith(text)
    assert not failure.is_transient


@pytest.mark.parametrize(
    ("exception", "verb", "texts"),
    [
        (_answer(301, "PermanentRedirect"), "read", ["another region", "AWS_REGION"]),
        (_answer(400, "AuthorizationHeaderMalformed"), "read", ["another region", "AWS_REGION"]),
        (_answer(400, "InvalidArgument"), "read", ["the store answered 400 InvalidArgument: a message"]),
        (_answer(501, "NotImplemented", None), "read", ["the store answered 501 NotImplemented: no message"]),
        (botocore_errors.NoCredentialsError(), "read", ["no usable credentials", "AWS_PROFILE"]),
        (botocore_errors.ProfileNotFound(profile="mine"), "read", ["no usable credentials", "mine"]),
        (botocore_errors.ParamValidationError(report="bad name"), "read", ["bad name"]),
        (
            botocore_errors.SSLError(endpoint_url="h", error="[SSL: CERTIFICATE_VERIFY_FAILED]"),
            "read",
            ["VERIFY_FAILED"],
        ),
    ],
    ids=lambda value: f"{type(value).__name__} {value}" if isinstance(value, Exception) else None,
)
def test_final(exception: Exception, verb: str, texts: list[str]) -> None:
    failure = understand(exception, verb, _PLACE)
    assert not failure.is_transient
    assert not failure.is_stale_login
    assert isinstance(failure.error, StorageError)
    for text in [f"cannot {verb} s3://bucket/a/b: ", *texts]:
        assert text in str(failure.error)


@pytest.mark.parametrize(
    ("exception", "verb", "texts"),
    [
        (_answer(403, "AccessDenied"), "read", ["403 AccessDenied", "AWS_PROFILE", "s3:GetObject", "s3:ListBucket on"]),
        (_answer(403, "403"), "write", ["permission denied (403);", "s3:PutObject"]),
        (_answer(401, "Unauthorized"), "delete", ["s3:DeleteObject"]),
        (_answer(403, "AccessDenied"), "list", ["s3:ListBucket"]),
        (_answer(403, "SignatureDoesNotMatch"), "read", ["refused the credentials (403 SignatureDoesNotMatch)"]),
        (_answer(403, "InvalidAccessKeyId"), "read", ["refused the credentials", "AWS_PROFILE"]),
        (_answer(400, "ExpiredToken"), "read", ["refused the credentials (400 ExpiredToken)", "renew them"]),
        (_answer(400, "InvalidToken"), "read", ["refused the credentials"]),
        (_answer(403, "TokenRefreshRequired"), "read", ["refused the credentials"]),
        (_answer(400, "400"), "read", ["400 and no more", "renew them", "AWS_PROFILE"]),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else None,
)
def test_refused_credentials_are_worth_one_renewal(exception: Exception, verb: str, texts: list[str]) -> None:
    failure = understand(exception, verb, _PLACE)
    assert failure.is_stale_login
    assert not failure.is_transient
    assert isinstance(failure.error, StorageError)
    for text in [f"cannot {verb} s3://bucket/a/b: ", *texts]:
        assert text in str(failure.error)


def test_a_bug_is_not_taken_for_a_failure_of_the_store() -> None:
    bug = KeyError("ContentLength")
    assert understand(bug, "read", _PLACE).error is bug


def test_no_text_shows_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    texts = []
    for exception in (
        botocore_errors.EndpointConnectionError(endpoint_url="http://me:wJalrXUtnFEMI@host"),
        _answer(400, "InvalidArgument", "bad header wJalrXUtnFEMI"),
        _answer(503, "SlowDown", "bad header wJalrXUtnFEMI"),
    ):
        failure = understand(exception, "read", _PLACE)
        texts += [failure.reason, str(failure.error)]
    assert all("***" in text or text.startswith("400") for text in texts)
    assert not any("wJalr" in text or "me:" in text for text in texts)


def test_status_behind_an_exception() -> None:
    assert error_status(_answer(412, "PreconditionFailed")) == 412
    assert error_status(OSError("no answer")) is None
