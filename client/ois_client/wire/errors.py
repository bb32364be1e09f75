"""Errors on the wire: the text `OIS:<CODE>: <text>` and the nearest of Triton's own codes.

The server's text contains no traceback and none of its paths. The client turns it into the same
typed error that the engines would have raised in process.
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

#: gRPC sends the text in a header of at most 8 KiB, where a byte outside ASCII takes three.
_LONGEST_TEXT = 1500

_ON_WIRE = re.compile(r"OIS:([A-Z][A-Z_]*): (.*)", re.DOTALL)
_PATH = re.compile(r"(?<![\w/:.])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,)]+[/\\])+[^\s'\":;,)]*")

#: class of the error -> the name of Triton's nearest code; the first match is used.
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

    Of an error that is not an `OISError`, only the type is sent; its text belongs in the server's
    log. Paths are replaced by "(path)".
    """
    if not isinstance(error, OISError):
        return (
            f"OIS:{OISError.code}: internal error of the server ({type(error).__name__}); see its "
            "log"
        )
    text = _PATH.sub("(path)", str(error))
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}…"
    return f"OIS:{error.code}: {text}"


def triton_code(error: BaseException) -> str:
    """The name of the nearest member of `pb_utils.TritonError`, such as "NOT_FOUND"."""
    for kind, code in _TRITON_CODES:
        if isinstance(error, kind):
            return code
    return "INTERNAL"


def error_from_text(text: str) -> OISError | None:
    """The typed error in a server's message; None if there is none.

    Triton puts a prefix in front of the message when one model calls another.
    """
    found = _ON_WIRE.search(text)
    return error_from_code(found[1], found[2]) if found else None
