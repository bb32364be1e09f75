"""The calling thread's alternate signal stack, kept as it was.

OpenVINO's CPU plugin gives the thread that loads it an alternate stack for signal handlers, and
later unmaps it without taking it back. Python runs its handlers on that stack: from then on the
first signal that has one (Ctrl-C, SIGTERM, a child's end) kills the process with a segmentation
fault and no word. Seen with OpenVINO 2026.4 on Linux, x86-64.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_LINUX = sys.platform.startswith("linux")
_LIBC = ctypes.CDLL(None) if _LINUX else None


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """What happens inside leaves the thread's alternate signal stack as it was before."""
    if _LIBC is None:
        yield
        return
    before = _Stack()
    _LIBC.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        _LIBC.sigaltstack(ctypes.byref(before), None)
