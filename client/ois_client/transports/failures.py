"""Turns failures of a server, a proxy or the network into typed errors.

Our own models name the error themselves (`OIS:<CODE>: ...`). Messages of Triton, gRPC and HTTP are
looked up in one table; the first row whose status and pattern match decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ois_client.contract.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    IncompatibleServer,
    InvalidImage,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
)
from ois_client.wire.errors import error_from_text

_ANY = ""


@dataclass(frozen=True, slots=True)
class Row:
    """statuses: names of gRPC status codes. pattern: a regular expression, case ignored."""

    statuses: tuple[str, ...]
    pattern: str
    kind: type[OISError]
    #: with the placeholders {url}, {text} and {timeout}
    message: str

    def fits(self, status: str, text: str) -> bool:
        return status in self.statuses and re.search(self.pattern, text, re.I) is not None


_BUSY = "the server at {url} is overloaded ({text}); try again later"
_NO_ANSWER = (
    "no OIS server answers at {url} ({text}). Start one with `ois serve`, or check the address"
)
_OTHER_MODELS = (
    "the server at {url} does not serve the models that this client expects ({text}). Serve the "
    "model repository that `ois export` of the same release writes"
)

TABLE: tuple[Row, ...] = (
    Row(
        ("UNAVAILABLE", "PERMISSION_DENIED", "UNAUTHENTICATED"),
        r"expecting header|restricted",
        AccessDenied,
        "the server at {url} requires a token ({text}); pass token=... with the right one",
    ),
    Row(
        ("PERMISSION_DENIED", "UNAUTHENTICATED"),
        _ANY,
        AccessDenied,
        "the server at {url} refuses access ({text}); pass token=... with the right one",
    ),
    Row(
        ("RESOURCE_EXHAUSTED",),
        r"larger than max|too large|message size|exceeds",
        InvalidImage,
        "the image is larger than the server at {url} accepts ({text}); reduce it, or raise the "
        "server's limit",
    ),
    Row(
        ("UNAVAILABLE", "RESOURCE_EXHAUSTED"),
        r"queue size|request timeout expired|overload|too many|rate limit|^resource_exhausted$",
        ServerOverloaded,
        _BUSY,
    ),
    Row(
        ("RESOURCE_EXHAUSTED",),
        _ANY,
        ServerOverloaded,
        _BUSY,
    ),
    Row(
        ("INTERNAL",),
        r"shared memory pool|no space left",
        ServerOverloaded,
        "the server at {url} has no shared memory left ({text}); give its container a larger "
        "--shm-size",
    ),
    Row(
        ("DEADLINE_EXCEEDED",),
        _ANY,
        DeadlineExceeded,
        "no answer from {url} within {timeout}; nothing was changed. Pass longer Timeouts, or "
        "check whether the server is overloaded",
    ),
    Row(("CANCELLED",), _ANY, Cancelled, "the call to {url} was cancelled; nothing was changed"),
    Row(
        ("INTERNAL", "UNAVAILABLE", "NOT_FOUND", "INVALID_ARGUMENT"),
        r"not healthy|stub process|no available versions|not ready|unload",
        ServerUnavailable,
        "the model at {url} is not running ({text}); it is being started, or has failed: see the "
        "server's log",
    ),
    Row(
        ("INTERNAL", "UNKNOWN"),
        r"rst_stream|goaway|socket closed|connection reset|stream removed|broken pipe",
        ServerUnavailable,
        _NO_ANSWER,
    ),
    Row(
        ("INTERNAL",),
        r"deserializing",
        ServerUnavailable,
        "the answer from {url} was damaged on its way ({text}); ask again",
    ),
    Row(("UNAVAILABLE",), _ANY, ServerUnavailable, _NO_ANSWER),
    Row(
        ("NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED", "FAILED_PRECONDITION", "OUT_OF_RANGE"),
        _ANY,
        IncompatibleServer,
        _OTHER_MODELS,
    ),
)

#: HTTP status -> the gRPC status with the same meaning.
_OF_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def status_of_http(status: int) -> str:
    """Return the name of the gRPC status closest to an HTTP status."""
    return _OF_HTTP.get(status, "INTERNAL" if status >= 500 else "UNIMPLEMENTED")


def error_for(status: str, text: str, *, url: str, timeout_s: float) -> OISError:
    """Return the typed error for a failed call.

    status: the name of a gRPC status. text: the message of the server or the network.
    """
    ours = error_from_text(text)
    if ours is not None:
        return ours
    shown = _shown(text) or status
    for row in TABLE:
        if row.fits(status, text):
            return row.kind(row.message.format(url=url, text=shown, timeout=f"{timeout_s:g} s"))
    return OISError(f"the server at {url} failed ({status}: {shown})")


def innermost_cause(error: BaseException) -> str:
    """Type and text of the error that all others were raised from: urllib3 nests several."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _shown(text: str) -> str:
    """One line, without the traceback that Triton appends when a model fails."""
    return " ".join(text.split("Traceback (most recent")[0].split())[:300]
