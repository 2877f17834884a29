"""What an exception of the S3 client means: worth another try, credentials run out, or final with a text that helps.

Kept apart from the requests so that the table of codes can be read and tested on its own.
"""

import asyncio
import http.client
import socket
from typing import Any

from longspan.errors import StorageError
from longspan.storage.retry import Failure
from longspan.uri import Location, hide_credentials


class NotFoundError(StorageError):
    """The URI (or its bucket) does not exist, as opposed to: could not be reached."""


class TooSlowError(Exception):
    """A try took longer than the policy allows for its bytes; worth another one on a new connection."""


def short_range(location: Location, start: int, end: int, num_found: int) -> StorageError:
    """The error of a range that had to be there as a whole."""
    return StorageError(
        f"cannot read {location.uri}: of bytes [{start}, {end}) it has {num_found} only; "
        "it is shorter than it was said to be: restore it, or make it again"
    )


# Sources: the S3 API reference's list of error codes, and the retry tables of botocore ("standard" mode).
_TRANSIENT_CODES = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "InternalError", "OperationAborted", "ConditionalRequestConflict"),
        *("Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "BandwidthLimitExceeded"),
        *("RequestTimeout", "RequestTimeoutException", "IncompleteBody", "BadDigest"),
        *("XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
    }
)
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_BAD_LOGIN_CODES = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId"),
    }
)
_PERMISSIONS = {"read": "s3:GetObject", "write": "s3:PutObject", "list": "s3:ListBucket", "delete": "s3:DeleteObject"}
_CHAIN = "the standard AWS chain (environment variables, AWS_PROFILE and ~/.aws, the role of the machine or pod)"


def understand(exception: Exception, verb: str, location: Location) -> Failure:
    """What `exception`, raised while trying to `verb` ("read", "write", "list", "delete") `location`, means."""
    response = _error_response(exception)
    if response is not None:
        return _understand_response(response, verb, location)
    reason = hide_credentials(" ".join(f"{type(exception).__name__}: {exception}".split())).rstrip(": ")
    if _is_transient(exception):
        return Failure(reason, StorageError(f"cannot {verb} {location.uri}: {reason}"), is_transient=True)
    if not _is_from_client(exception):
        return Failure(reason, exception)
    if type(exception).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        mend = f"give them through {_CHAIN}, or write s3://anonymous@{location.bucket} if it is public"
        reason = f"no usable credentials ({reason}); {mend}"
    return Failure(reason, StorageError(f"cannot {verb} {location.uri}: {reason}"))


def error_status(exception: BaseException) -> int | None:
    """The HTTP status behind `exception`, or None if the store did not answer."""
    response = _error_response(exception)
    return None if response is None else _status(response)


def _error_response(exception: BaseException | None) -> dict[str, Any] | None:
    """The parsed answer of the store: s3fs turns botocore's ClientError into an OSError and keeps it as the cause."""
    while exception is not None:
        response = getattr(exception, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return response
        exception = exception.__cause__
    return None


def _status(response: dict[str, Any]) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _understand_response(response: dict[str, Any], verb: str, location: Location) -> Failure:
    status = _status(response)
    code = str(response["Error"].get("Code", ""))
    message = hide_credentials(" ".join(str(response["Error"].get("Message") or "no message").split()))
    reason = " ".join(part for part in (str(status), code if code != str(status) else "") if part)
    start = f"cannot {verb} {location.uri}"
    if code == "NoSuchBucket":
        return Failure(reason, NotFoundError(f"{start}: bucket {location.bucket!r} does not exist at this endpoint"))
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUSES:
        reason = f"{reason}: {message}"
        return Failure(reason, StorageError(f"{start}: {reason}"), is_transient=True)
    if status == 404:
        return Failure(reason, NotFoundError(f"{start}: it does not exist"))
    if code in _BAD_LOGIN_CODES:
        text = f"{start}: the store refused the credentials ({reason}); renew them in {_CHAIN}"
        return Failure(reason, StorageError(text), is_stale_login=True)
    # Keys that were rotated or ran out are refused in many ways, and an answer to HEAD has no code to tell them apart.
    if status in (401, 403):
        text = f"{start}: {_permission_text(reason, verb, location)}"
        return Failure(reason, StorageError(text), is_stale_login=True)
    if code == "400":
        text = f"{start}: the store answered 400 and no more, as to credentials that ran out; renew them in {_CHAIN}"
        return Failure(reason, StorageError(text), is_stale_login=True)
    if status in (301, 307, 400) and code in ("PermanentRedirect", "301", "307", "AuthorizationHeaderMalformed"):
        text = f"{start}: the bucket is in another region ({reason}); set AWS_REGION to it"
        return Failure(reason, StorageError(text))
    return Failure(reason, StorageError(f"{start}: the store answered {reason}: {message}"))


def _permission_text(reason: str, verb: str, location: Location) -> str:
    if location.is_anonymous:
        return f"permission denied ({reason}); it is not public, or does not exist: leave anonymous out"
    text = f"permission denied ({reason}); the identity that {_CHAIN} gives must be valid and have {_PERMISSIONS[verb]}"
    if verb == "read":  # S3 hides whether an object exists from those who may not list
        text += f", and s3:ListBucket on {location.bucket}, without which a missing object is refused too"
    return text


def _is_from_client(exception: Exception) -> bool:
    from botocore.exceptions import BotoCoreError

    return isinstance(exception, BotoCoreError | OSError)


def _is_transient(exception: Exception) -> bool:
    import aiohttp
    from botocore import exceptions as botocore_errors
    from botocore.parsers import ResponseParserError

    if "CERTIFICATE_VERIFY_FAILED" in str(exception) or isinstance(exception, aiohttp.InvalidURL):
        return False
    transient = (
        TooSlowError,
        ConnectionError,
        TimeoutError,
        asyncio.TimeoutError,
        socket.gaierror,
        http.client.IncompleteRead,
        aiohttp.ClientError,
        botocore_errors.HTTPClientError,
        botocore_errors.ConnectionError,
        botocore_errors.IncompleteReadError,
        ResponseParserError,  # a proxy or an overloaded store that answers something other than XML
    )
    return isinstance(exception, transient)
