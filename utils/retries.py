"""Requests that are made again where that can help. What is wrong in the end is one UserError, in which no secret is shown."""

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from utils.errors import UserError, cut, first_line
from utils.urls import redacted

ATTEMPTS = 4
FIRST_WAIT_S = 1.0  # before the second attempt; each further one waits twice as long
_MAY_PASS = (408, 425, 429)  # of HTTP; and all from 500 on
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# What s3fs makes of the answers that say the request is wrong: see s3fs.errors.
_WRONG_REQUEST = {"EINVAL", "EPERM", "ENOSYS", "EREMCHG", "ENAMETOOLONG"}
# Failures of a connection that are no OSError: of aiohttp, botocore, httpx and google.auth.
_CONNECTION_ERRORS = {
    "ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ConnectionError", "IncompleteReadError",
    "ResponseParserError", "TransportError",
}  # fmt: skip
T = TypeVar("T")


class Refused(Exception):
    """An answer of an HTTP server other than 200 and 206."""

    def __init__(self, status: int):
        super().__init__(f"HTTP {status}")
        self.status = status


class Short(Exception):
    """An answer that ended early."""


def repeated(url: str, attempt: Callable[[], T]) -> T:
    """Return what `attempt` returns, which is made up to ATTEMPTS times. Raises UserError with the address and the last reason."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except UserError:
            raise
        except Exception as error:  # file systems raise anything: errors of aiohttp, of botocore, of google's libraries
            if not _may_pass(error) or number == ATTEMPTS:
                tries = f", {number} times" if number > 1 else ""
                raise UserError(f"{redacted(url)}: cannot be read: {_reason(error)}{tries}") from None
        time.sleep(FIRST_WAIT_S * 2 ** (number - 1) * random.uniform(0.5, 1))
    raise AssertionError("the last attempt returns or raises")


def _may_pass(error: Exception) -> bool:
    """Return whether the same request may succeed a little later."""
    status = getattr(error, "status", None) or getattr(error, "code", None)  # of aiohttp and gcsfs
    if isinstance(status, int):
        return status >= 500 or status in _MAY_PASS
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL) and errno.errorcode.get(error.errno) not in _WRONG_REQUEST
    return isinstance(error, Short) or any(kind.__name__ in _CONNECTION_ERRORS for kind in type(error).__mro__)


def _reason(error: Exception) -> str:
    """Say what went wrong, without repeating an address."""
    if isinstance(error, FileNotFoundError) or getattr(error, "status", None) == 404:
        return "no such file"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = first_line(error)
    text = type(error).__name__ if "://" in text else cut(text)
    denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    return f"not allowed ({text}): are the credentials there?" if denied else text
