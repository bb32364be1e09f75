"""The C allocator's settings for a process that trains."""

from __future__ import annotations

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it to the system after each tensor.

    Page faults otherwise take up to four fifths of a training step on a CPU. Other C
    libraries have no such knobs and are left alone. The setting is the whole process's: it is for
    the program that trains (`ois train`), not for a library call inside another.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # mallopt's parameter numbers
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 * 2**20)
