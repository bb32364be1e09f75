"""HTTP connections on which one deadline holds for all of a call: sending, waiting and reading.

A socket's own timeout begins again with every byte, so an answer that drips in would hold a call
for as long as it likes. urllib3 hands nothing through to its connections, hence the deadline
under way is the calling thread's.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

_thread = threading.local()


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """What this thread does on the connections below raises `TimeoutError` after `deadline`.

    deadline: as `time.monotonic` counts.
    """
    _thread.deadline = deadline
    try:
        yield
    finally:
        del _thread.deadline


def _left_s() -> float:
    left_s: float = _thread.deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the deadline has passed")
    return left_s


class _Reads(io.RawIOBase):
    """What a socket receives until the deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open as long as itself

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Reads(sock))


class PlainConnection(HTTPConnection):
    """To be used within `until`."""

    response_class = _Answer

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        # Not the time to connect, which urllib3 would give it: a large picture takes longer.
        self.sock.settimeout(_left_s())
        super().send(data)


class SecureConnection(PlainConnection, HTTPSConnection):
    """The same with TLS."""
