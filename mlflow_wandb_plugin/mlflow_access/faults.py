"""Tells errors that are for good from those that may pass."""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Iterator
from typing import Any

WAIT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
"""HTTP statuses of requests that may be repeated."""
LIBRARY_MISSING, LOCAL_FAULT = "LIBRARY_MISSING", "LOCAL_FAULT"
_LOCAL_FAULTS = frozenset(
    (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EROFS,
     errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST)
)  # fmt: skip
_CLOUD = ("botocore", "boto3", "s3transfer", "google", "azure")
"""Packages of MLflow's artifact stores, whose errors have no common base class."""
_CAUSES = 12
_STATUS_IN_TEXT = re.compile(r"failed with error code (\d{3})|status code:? (\d{3})")
_STATUS_OF_DOWNLOAD = re.compile(r"\b(\d{3}) (?:Client|Server) Error")
_PASSING = frozenset(("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"))
"""MLflow's error codes after which a call may be repeated."""
_PASSING_OF_SERVER = frozenset(("INTERNAL_ERROR", *_PASSING))
"""Those of a server: MLflow's client gives this code to broken connections, too."""
SERVERS = ("http://", "https://", "databricks")
"""How the tracking URIs of servers begin."""


def permanent_code(error: BaseException) -> str:
    """A code for an error that repeating the call would not cure; empty for any other error."""
    for cause in (error, error.__cause__):
        if isinstance(cause, ImportError):
            return LIBRARY_MISSING
        if isinstance(cause, OSError) and cause.errno in _LOCAL_FAULTS:
            return LOCAL_FAULT
        status = _status(cause)
        if status is not None and 400 <= status < 500 and status not in WAIT_STATUS:
            return f"HTTP_{status}"
    return "NO_CREDENTIALS" if "Credential" in type(error).__name__ else ""


def status_in(text: str) -> int:
    """The HTTP status that MLflow's message of an error names, 0 if none: MLflow gives most
    answers that are not JSON the same error code."""
    found = _STATUS_IN_TEXT.search(text)
    return 0 if found is None else int(found[1] or found[2])


def may_pass(error: Exception, at_server: bool) -> bool:
    """Whether MLflow, its database or the network may take the same call later.

    Args:
        at_server: the call went to a tracking server.
    """
    import requests
    from mlflow.exceptions import MlflowException

    if permanent_code(error) or is_untrusted(error):
        return False
    if not isinstance(error, MlflowException):
        return isinstance(error, requests.RequestException) or is_of_sqlalchemy(
            error, "OperationalError"
        )
    # A failed download has the server's answer in a later line.
    found = _STATUS_OF_DOWNLOAD.search(str(error))
    status = int(found[1]) if found else status_in(str(error).partition("\n")[0])
    codes = _PASSING_OF_SERVER if at_server else _PASSING
    code = str(getattr(error, "error_code", ""))
    return status in WAIT_STATUS or (code in codes and not 400 <= status < 500)


def is_of_sqlalchemy(error: Exception, name: str) -> bool:
    """Whether an error is of this class of SQLAlchemy, which a tracking server does not need."""
    return ("sqlalchemy.exc", name) in (
        (kind.__module__, kind.__name__) for kind in type(error).__mro__
    )


def is_untrusted(error: BaseException) -> bool:
    """Whether a certificate that is not trusted is behind an error."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))


def is_of_cloud(error: BaseException) -> bool:
    """Whether a package of an artifact store raised an error."""
    return type(error).__module__.split(".")[0] in _CLOUD


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error of requests or of an artifact store has."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    return found if isinstance(found, int) else None
