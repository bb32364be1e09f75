"""Prints results to stdout and messages for people to stderr."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ois_client.contract.errors import OISError, OutputError

#: Errors of the operating system that stop a write, and their reasons in words.
_WRITE_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reported an input/output error",
}


def print_json(result: dict[str, Any]) -> None:
    """Write one JSON document to stdout."""
    print(json.dumps(result, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Print one line to stderr, so that stdout stays parseable."""
    print(text, file=sys.stderr)


def warn(text: str) -> None:
    """Print one line to stderr that begins with "warning:"."""
    say(f"warning: {text}")


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show `text` and a spinner while the block runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def as_ois_error(error: BaseException) -> OISError | None:
    """Return the typed error to show for `error`, or None for a defect of this program."""
    if isinstance(error, OISError):
        return error
    if isinstance(error, MemoryError):
        return OISError(
            "not enough memory; close other programs, or use a smaller image or fewer objects"
        )
    if isinstance(error, OSError):
        reason = _WRITE_ERRNOS.get(error.errno or 0)
        if reason is not None:
            where = f" at {error.filename}" if error.filename else ""
            return OutputError(f"{reason}{where}; free space or choose another folder")
    return None


def print_error(code: str, message: str, *, as_json: bool) -> None:
    """Print an error to stderr, and with `as_json` also as a JSON document to stdout."""
    if as_json:
        print_json({"error": {"code": code, "message": message}})
    say(f"error: {message} ({code})")
