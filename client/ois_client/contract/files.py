"""A file of JSON lines that outlives what writes it: `kill -9`, a full disk, a second process."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ois_client.contract.errors import OutputError

_SYNC_EVERY_S = 5.0


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
