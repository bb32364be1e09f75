"""Writes files whole or not at all, and appends JSON lines to files that survive a crash."""

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

from ois_client.contract.errors import InvalidInput, OutputError

_SYNC_EVERY_S = 5.0

#: The bytes of a file, or a function that writes them.
Content = bytes | Callable[[BinaryIO], object]


def user_folder(variable: str, usual: str) -> Path | None:
    """This package's folder in `$variable`, by default in ~/`usual`; None without a home folder."""
    chosen = os.environ.get(variable)
    try:
        return (Path(chosen) if chosen else Path.home() / usual) / "ois-deploy"
    except RuntimeError:
        return None


def write_file(path: Path, content: Content, *, mode: int = 0o666) -> None:
    """Write one file as `write_files` does."""
    write_files({path: content}, mode=mode)


def write_files(contents: Mapping[Path, Content], *, mode: int = 0o666) -> None:
    """Write all files under temporary names in their folders, then rename them.

    No other process sees half a file. If one file cannot be written, none is changed. Symbolic
    links are followed. mode: who may do what with the files, less the umask. Raises `OutputError`
    with the file and the reason.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            place = path.resolve()  # renaming over a symbolic link would replace the link
            part = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}.part")
            parts[part] = place
            try:
                part.touch(mode)
                _write_through(part, content)
            except (OSError, RuntimeError) as error:
                # torch.save reports a full disk as a RuntimeError of its zip writer.
                raise _cannot_write(path, error, "no file was changed") from error
        for done, (part, place) in enumerate(parts.items()):
            try:
                part.replace(place)
            except OSError as error:
                verb = "was" if done == 1 else "were"
                changed = f"{done} of {len(parts)} files {verb} replaced"
                raise _cannot_write(place, error, changed) from error
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


def _cannot_write(path: Path, error: Exception, changed: str) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(
        f"cannot write {path}: {reason}; {changed}. Free space or choose another folder"
    )


class LineFile:
    """A file of JSON lines that one process at a time appends to.

    A line survives a crash of the process as soon as `append` returns, and a crash of the machine
    about five seconds later.
    """

    def __init__(self, path: Path) -> None:
        """Open or create `path`.

        Raises `OutputError` if it cannot be opened or another process has it open.
        """
        self.path = path
        self._synced = time.monotonic()
        try:
            # Unbuffered: bytes that a full disk refused must not be written again on close.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise OutputError(
                f"another process is writing {path}; wait for it or choose another output"
            ) from error

    def read(self) -> bytes:
        """Return the whole content, including a last line that was cut off."""
        self._file.seek(0)
        return self._file.read()

    def replay(self, take: Callable[[Any], object]) -> None:
        """Call `take` with the JSON of every line, then remove a last line that was cut off.

        Raises `InvalidInput` if a line is damaged: it is not JSON, or `take` finds a field missing
        or of the wrong type.
        """
        *lines, _cut_off = self.read().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidInput(
                    f"{self.path}, line {number}, is damaged ({type(error).__name__}: {error}). "
                    "Start again with --overwrite"
                ) from error
        self.drop_cut_off()

    def clear(self) -> None:
        """Remove all lines. Nobody else is writing them: the file is locked."""
        self._file.truncate(0)

    def drop_cut_off(self) -> None:
        """Remove a last line without its line end, as a crash leaves it."""
        self._file.truncate(self.read().rfind(b"\n") + 1)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append one line. Raises `OutputError` if it cannot; the file is then unchanged."""
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
                f"cannot write {self.path}: {error.strerror or error}; its earlier lines are "
                "kept. Free space and run the same command again to continue"
            ) from error

    def close(self) -> None:
        self._file.close()
