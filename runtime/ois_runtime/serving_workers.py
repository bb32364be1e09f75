"""Threads that answer requests, with two lines: requests that bring a new image, and the rest.

A click never waits behind somebody's encode, and a line that is full refuses at once instead
of growing: the client learns it while its user still waits. Who clicks alone needs no line.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ois_client.errors import ServerOverloaded, ServerUnavailable

Job = TypeVar("Job")


class Line(Generic[Job]):
    """`workers` threads that call `work` with one job after another, first come, first served.

    `work` must not raise.
    """

    def __init__(self, name: str, workers: int, size: int, work: Callable[[Job], None]) -> None:
        self._name = name
        self._work = work
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._size = size
        self._unfinished = 0
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"ois-{name}-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, job: Job) -> None:
        """Raises `ServerOverloaded` when the line is full, `ServerUnavailable` when closed."""
        with self._lock:
            if self._closed:
                raise ServerUnavailable("the server is shutting down; try again when it is back")
            if self._jobs.qsize() >= self._size:
                raise ServerOverloaded(
                    f"{self._size} requests are waiting in the {self._name} line already; try "
                    "again in a moment"
                )
            self._unfinished += 1
            self._jobs.put(job)

    def waiting(self) -> int:
        return self._jobs.qsize()

    def idle(self) -> bool:
        """Nothing waits and nothing is being worked on."""
        return not self._unfinished

    def close(self) -> None:
        """Take no more jobs, finish those that wait, then return. Twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._work(job)
            with self._lock:
                self._unfinished -= 1


class Shortcut:
    """Whether the thread that receives requests may answer a click itself.

    That saves waking another thread: two tenths of a millisecond of a click. But nothing else is
    received until it is done, so it is for clicks that will be short, and not while several users
    click: a request that comes right after an answer was there before it, and waited.
    """

    #: What others may wait at most; of a longer click nobody would feel the difference either.
    LONGEST_S = 0.05
    #: From an answer to the next request of a user who waited for it: more than this.
    APART_S = 0.001

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._click_s = math.inf  # nobody knows yet
        self._left = -math.inf

    def open(self) -> bool:
        return self._click_s <= self.LONGEST_S and self._now() - self._left >= self.APART_S

    def leave(self) -> None:
        """A click was answered this way just now."""
        self._left = self._now()

    def took(self, seconds: float) -> None:
        """What a click took to work on, wherever it was answered: the next will be like it."""
        self._click_s = seconds
