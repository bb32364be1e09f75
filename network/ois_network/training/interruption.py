"""Ctrl-C and SIGTERM between two steps instead of in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event instead of killing a step halfway; a second is at once.

    A launcher passes one Ctrl-C on several times: what comes within seconds counts as one.
    """
    event = threading.Event()
    first = 0.0

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if event.is_set() and time.monotonic() - first > 3:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
