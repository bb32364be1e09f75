"""Errors on the wire: `OIS:<CODE>: <text>`, with the nearest of Triton's own codes beside it.

What a server writes never shows a traceback or one of its paths; what a client reads becomes
the same typed error that the engines would have raised in process.
"""

from __future__ import annotations

import re

from ois_client.contract.errors import (
    DeadlineExceeded,
    IncompatibleServer,
    InvalidInput,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
    UnknownImage,
    error_from_code,
)

#: gRPC carries the text in a header field of at most 8 KiB, three bytes for each odd one.
_LONGEST_TEXT = 1500

_ON_WIRE = re.compile(r"OIS:([A-Z][A-Z_]*): (.*)", re.DOTALL)
_PATH = re.compile(r"(?<![\w/:.])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,)]+[/\\])+[^\s'\":;,)]*")

#: kind of error -> the name of Triton's nearest code; the first that fits counts.
_TRITON_CODES: tuple[tuple[type[OISError], str], ...] = (
    (UnknownImage, "NOT_FOUND"),
    (InvalidInput, "INVALID_ARG"),
    (IncompatibleServer, "INVALID_ARG"),
    (ServerOverloaded, "UNAVAILABLE"),
    (ServerUnavailable, "UNAVAILABLE"),
    (DeadlineExceeded, "UNAVAILABLE"),
)


def error_text(error: BaseException) -> str:
    """The text of the server's answer: `OIS:<CODE>: <text>`.

    The text of an error that is not ours stays behind (it belongs in the server's log): only
    its type is named. Paths of the server are replaced by "(path)".
    """
    if not isinstance(error, OISError):
        return (
            f"OIS:{OISError.code}: the server failed inside ({type(error).__name__}); see its log"
        )
    text = _PATH.sub("(path)", str(error))
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}…"
    return f"OIS:{error.code}: {text}"


def triton_code(error: BaseException) -> str:
    """The nearest member of `pb_utils.TritonError`, by name, such as "NOT_FOUND"."""
    for kind, code in _TRITON_CODES:
        if isinstance(error, kind):
            return code
    return "INTERNAL"


def error_from_text(text: str) -> OISError | None:
    """The typed error in a server's message; None when it holds none of ours.

    The message may have a prefix: a model that calls another puts its own words before it.
    """
    found = _ON_WIRE.search(text)
    return error_from_code(found[1], found[2]) if found else None
