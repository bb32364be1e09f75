"""Files that are written whole or not at all, and journals of JSON lines that survive a crash."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ois_client.contract.errors import OutputError

_SYNC_EVERY_S = 5.0

#: The bytes of a file, or a function that writes them.
Content = bytes | Callable[[BinaryIO], object]


def write_file(path: Path, content: Content) -> None:
    """Write one file whole: see `write_files`."""
    write_files({path: content})


def write_files(contents: Mapping[Path, Content]) -> None:
    """Write every file to a temporary name beside its place, then rename them all.

    No other process sees half a file, and if one file cannot be written, none is changed.
    Symbolic links are followed. Raises `OutputError` naming the file and the reason.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            place = path.resolve()  # renaming over a symbolic link would replace the link
            part = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}.part")
            parts[part] = place
            try:
                _write_through(part, content)
            except (OSError, RuntimeError) as error:
                # torch.save reports a full disk as a RuntimeError of its zip writer.
                raise _cannot_write(path, error) from error
        for part, place in parts.items():
            try:
                part.replace(place)
            except OSError as error:
                raise _cannot_write(place, error) from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _write_through(path: Path, content: Content) -> None:
    with path.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        # Some file systems report a full disk only here. After fsync the rename is safe.
        os.fsync(file.fileno())


def _cannot_write(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(
        f"cannot write {path}: {reason}; no file was changed. Free space or choose another folder"
    )


class LineFile:
    """Lines are only appended, by one process at a time; one that was cut off is dropped.

    What `append` has returned from survives the process, and five seconds later the machine.
    """

    def __init__(self, path: Path) -> None:
        """Open or create `path`. Raises `OutputError` when that cannot be done, or another process
        has it open."""
        self.path = path
        self._synced = time.monotonic()
        try:
            # Unbuffered: what a full disk refuses must not be tried again when it is closed.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise OutputError(
                f"another process is writing {path}; wait for it, or name another output"
            ) from error

    def read(self) -> bytes:
        """All that the file holds, a line that was cut off included."""
        self._file.seek(0)
        return self._file.read()

    def drop_cut_off(self) -> None:
        """Forget what follows the last whole line."""
        self._file.truncate(self.read().rfind(b"\n") + 1)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Raises `OutputError` when the line cannot be written; then the file is as it was."""
        end = self._file.seek(0, os.SEEK_END)
        left = json.dumps(entry).encode() + b"\n"
        try:
            while left:
                left = left[self._file.write(left) :]
            if time.monotonic() - self._synced >= _SYNC_EVERY_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            self._file.truncate(end)
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; what it holds stays. "
                "Free space; the same command then goes on from there"
            ) from error

    def close(self) -> None:
        self._file.close()
