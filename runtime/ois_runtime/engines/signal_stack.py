"""Restores the calling thread's alternate signal stack, which OpenVINO leaves broken.

OpenVINO's CPU plugin sets an alternate stack for signal handlers in the thread that loads it, and
later unmaps that memory without resetting the stack. The next signal with a handler (Ctrl-C,
SIGTERM, the end of a child process) then kills Python with a segmentation fault and no message.
Observed with OpenVINO 2026.4 on Linux, x86-64.
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
    """Restore the thread's alternate signal stack at the end of the block."""
    if _LIBC is None:
        yield
        return
    before = _Stack()
    _LIBC.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        _LIBC.sigaltstack(ctypes.byref(before), None)
