"""Counts the requests a model's process works on, in a file that the server's guard reads.

When it stops, Triton waits for HTTP connections that clients keep open, and does not report whether
any of them still has a request in progress. Each process of a model therefore keeps two unsigned
64-bit integers in native byte order, requests begun and requests ended, in a file named after its
process id. `ois_runtime/embedded/guard.py` reads them.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

#: Environment variable of a model's process: the folder for these files. Unset: no file is kept.
VARIABLE = "OIS_BUSY_FOLDER"


class RequestCounter:
    """Used as a context manager around a request, or through `begin` and `end`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._ended = 0
        self._shared: mmap.mmap | None = None
        if folder := os.environ.get(VARIABLE):
            path = Path(folder) / str(os.getpid())
            path.write_bytes(bytes(16))
            with path.open("r+b") as file:
                self._shared = mmap.mmap(file.fileno(), 16)

    def begin(self) -> None:
        self._add(1, 0)

    def end(self) -> None:
        self._add(0, 1)

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    def _add(self, begun: int, ended: int) -> None:
        with self._lock:
            self._begun += begun
            self._ended += ended
            if self._shared is not None:
                struct.pack_into("=QQ", self._shared, 0, self._begun, self._ended)
