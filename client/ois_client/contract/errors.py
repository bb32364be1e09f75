"""The tree of all errors that the toolkit raises on purpose.

    OISError
    ├── InvalidInput                something the caller passed cannot be used
    │   ├── InvalidImage            not an image, truncated, or larger than the limits
    │   ├── InvalidClick            NaN, outside the image, wrong shape or label
    │   └── TooManyClicks           more than 24 positive or 24 negative clicks on one object
    ├── UnknownImage                the server no longer holds this image's features
    ├── ServerUnavailable           nothing answers at the address
    ├── ServerOverloaded            the server refused the work; try again later
    ├── AccessDenied                the server requires a token, or a different one
    ├── DeadlineExceeded            the answer did not come in time
    ├── Cancelled                   the call was cancelled by a newer click or by closing
    ├── IncompatibleServer          client and engines were built for different contracts
    ├── EngineError                 an engine folder is missing, damaged, or cannot run here
    ├── ExportError                 an export did not produce a usable engine
    │   ├── ParityError             the engine's numbers differ from the PyTorch network's
    │   └── UnsupportedGraph        the graph contains something the target is known to get wrong
    ├── CheckpointError             a checkpoint is unreadable or of another network
    └── OutputError                 a result could not be written

A message says what was got, what was expected, and what to do next. `code` is the stable name
on the wire and in `--json` output.
"""

from __future__ import annotations

from typing import ClassVar


class OISError(Exception):
    """Base of every error that this toolkit raises on purpose."""

    code: ClassVar[str] = "OIS_ERROR"


class InvalidInput(OISError):
    """Something the caller passed cannot be used."""

    code = "INVALID_INPUT"


class InvalidImage(InvalidInput):
    """Not an image, truncated, or larger than the limits."""

    code = "INVALID_IMAGE"


class InvalidClick(InvalidInput):
    """A click that is NaN, outside the image, or of the wrong shape or label."""

    code = "INVALID_CLICK"


class TooManyClicks(InvalidInput):
    """More clicks of one sign on one object than the network has slots for."""

    code = "TOO_MANY_CLICKS"


class UnknownImage(OISError):
    """The image's features are not (or no longer) in the feature store."""

    code = "UNKNOWN_IMAGE"


class ServerUnavailable(OISError):
    """Nothing answers at the address."""

    code = "SERVER_UNAVAILABLE"


class ServerOverloaded(OISError):
    """The server refused the work; trying again later can succeed."""

    code = "SERVER_OVERLOADED"


class DeadlineExceeded(OISError):
    """The answer did not come in time; nothing was changed."""

    code = "DEADLINE_EXCEEDED"


class AccessDenied(OISError):
    """The server requires a token, or a different one from the one that was sent."""

    code = "ACCESS_DENIED"


class Cancelled(OISError):
    """The call was cancelled before its answer came; nothing was changed."""

    code = "CANCELLED"


class IncompatibleServer(OISError):
    """Client and engines were built for different contracts."""

    code = "INCOMPATIBLE_SERVER"


class EngineError(OISError):
    """An engine folder is missing, damaged, or cannot run on this machine."""

    code = "ENGINE_ERROR"


class ExportError(OISError):
    """An export did not produce a usable engine; nothing was written."""

    code = "EXPORT_ERROR"


class ParityError(ExportError):
    """The engine's numbers differ from the PyTorch network's by more than the limit."""

    code = "PARITY_ERROR"


class UnsupportedGraph(ExportError):
    """The graph contains an operator or pattern that the target is known to get wrong."""

    code = "UNSUPPORTED_GRAPH"


class CheckpointError(OISError):
    """A checkpoint is unreadable, incomplete, or of another network."""

    code = "CHECKPOINT_ERROR"


class OutputError(OISError):
    """A result could not be written (no space, no permission, no such folder)."""

    code = "OUTPUT_ERROR"


def _tree(root: type[OISError]) -> dict[str, type[OISError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        # A class without its own code is local to a module and is not sent.
        found.update({k: v for k, v in _tree(child).items() if "code" in vars(v)})
    return found


def error_from_code(code: str, message: str) -> OISError:
    """The typed error for a `code` from the wire. An unknown code becomes a plain `OISError`."""
    kind = _tree(OISError).get(code)
    return kind(message) if kind is not None else OISError(f"{code}: {message}")
