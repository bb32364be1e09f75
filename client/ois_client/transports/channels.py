"""Replaces a gRPC channel that has gone silent.

A connection can die without a sign: a laptop sleeps, a router forgets it, a proxy delivers garbage.
gRPC notices by its keepalive after more than a minute, and until then every call on the channel
ends at its deadline. So after a deadline, if nothing was heard on the channel since the call began,
later calls use a new one. Calls that still wait on the old one are left to end by themselves: a
server that is only slow may answer them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

Wire = TypeVar("Wire")


@dataclass(slots=True, eq=False)
class Line(Generic[Wire]):
    """A channel in use. calls: in progress. heard_s: when the last answer came, monotonic."""

    wire: Wire
    calls: int = 0
    heard_s: float = 0.0


class Channels(Generic[Wire]):
    """The channel for the next call, and old ones with calls in progress. Thread-safe.

    open: makes a channel, with its stubs.
    """

    def __init__(self, open: Callable[[], Wire]) -> None:
        self._open = open
        self._lock = Lock()
        self._now = Line(open())
        self._old: set[Line[Wire]] = set()
        self._closed = False

    @contextmanager
    def line(self) -> Iterator[Line[Wire]]:
        """The channel to use for one call."""
        with self._lock:
            line = self._now
            line.calls += 1
        try:
            yield line
        finally:
            with self._lock:
                line.calls -= 1

    def heard(self, line: Line[Wire]) -> None:
        """The server has answered, perhaps with an error."""
        line.heard_s = time.monotonic()

    def silent(self, line: Line[Wire], since_s: float) -> None:
        """A call that began at `since_s` (monotonic) ended at its deadline."""
        with self._lock:
            if line is self._now and line.heard_s < since_s and not self._closed:
                self._old.add(line)
                self._now = Line(self._open())

    def left(self) -> list[Wire]:
        """Old channels without calls, which the caller closes."""
        if not self._old:
            return []
        with self._lock:
            done = [line for line in self._old if not line.calls]
            self._old.difference_update(done)
        return [line.wire for line in done]

    def close(self) -> list[Wire]:
        """All channels, which the caller closes. Later calls get the last one, closed."""
        with self._lock:
            self._closed = True
            lines = [self._now, *self._old]
            self._old.clear()
        return [line.wire for line in lines]
