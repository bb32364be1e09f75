"""How many requests a model is working on, where the server's guard can read it.

Triton waits at its end for HTTP connections that clients keep open, and nothing of its own says
whether a request is still on one of them. So each process of a model counts, in a file that the
guard (`server_guard.py`) reads: two unsigned 64-bit integers in the machine's order, requests
begun and requests ended.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

#: The folder of these files, in a model's environment. Not set: nobody wants to know.
VARIABLE = "OIS_BUSY_FOLDER"


class Busy:
    """A context manager, entered for each request; `begin` and `end` do the same. Thread-safe."""

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
