"""Small /dev/shm and temporary folder for this process alone, which may be filled up.

Filling the machine's own would break other programs. With root on Linux, this process and those
that it starts get file systems of their own (a mount namespace), which end with it.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import tempfile
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x4000, 1 << 18, 2, 4
_MNT_DETACH = 2

SHM_BYTES = 384 * 2**20
#: The server unpacks its Python backend there, at each start.
TMP_BYTES = 96 * 2**20


def mount_private_folders() -> str | None:
    """Give this process small file systems at /dev/shm and at its temporary folder.

    Returns why that is not possible, or None. Call it once, in the main thread, before other
    threads are started. Changes `tempfile.gettempdir()` and `$TMPDIR`.
    """
    if os.geteuid() != 0:
        return "it needs root, for small file systems of its own"
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    folder = Path(tempfile.mkdtemp(prefix="ois-chaos-"))
    try:
        call("unshare", _CLONE_NEWNS)
        call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
        flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
        for place, size in ((b"/dev/shm", SHM_BYTES), (os.fsencode(folder), TMP_BYTES)):
            call("mount", b"tmpfs", place, b"tmpfs", flags, f"size={size},mode=1777".encode())
    except OSError as error:
        return f"it needs small file systems of its own, and they cannot be made ({error})"
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    atexit.register(_remove, folder)
    return None


def _remove(folder: Path) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(folder), _MNT_DETACH)
    folder.rmdir()
