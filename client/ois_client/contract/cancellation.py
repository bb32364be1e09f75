"""Giving up one blocking call from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ois_client.contract.errors import Cancelled


class Cancellation:
    """One call's switch. Thread-safe; once set, it stays set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._then: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """Set it, and call what waits for that, each once."""
        with self._lock:
            self._set.set()
            then, self._then = self._then, []
        for call in then:
            call()

    def then(self, call: Callable[[], object]) -> None:
        """Call `call` when cancelled, at once if that was before. It must not block."""
        with self._lock:
            if not self._set.is_set():
                self._then.append(call)
                return
        call()

    def sleep(self, seconds: float) -> None:
        """Raises `Cancelled` as soon as it is set, which may be before."""
        if self._set.wait(seconds):
            self.check()

    def check(self) -> None:
        """Raises `Cancelled` when it is set."""
        if self._set.is_set():
            raise Cancelled("the click was given up for a newer one; nothing was changed")
