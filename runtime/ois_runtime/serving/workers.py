"""Threads that answer requests, with two lines: requests that bring a new image, and the rest.

A click never waits behind somebody's encode, and a line that is full refuses at once instead
of growing: the client learns it while its user still waits.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ois_client.contract.errors import ServerOverloaded, ServerUnavailable

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
            self._jobs.put(job)

    def waiting(self) -> int:
        return self._jobs.qsize()

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
