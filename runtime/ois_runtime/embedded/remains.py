"""Removes what a server left behind that was killed together with its guard and its owner.

The guard removes everything of its server. If it is killed as well (`kill -9` of all, or the kernel
out of memory), a model process, shared memory and the staging folder can remain. Then nobody
holds the lock in that folder, which the next start of a server notices.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from ois_runtime.embedded.guard import clean
from ois_runtime.embedded.staging import LOCK, STAGE_PREFIX

_SHM_PREFIX = re.compile(r"ois-[0-9]+-[0-9a-f]{8}-")


def remove_remains() -> None:
    """Remove what dead servers of this user left on this machine. Others are not touched."""
    for folder in Path(tempfile.gettempdir()).glob(f"{STAGE_PREFIX}*"):
        with contextlib.suppress(OSError):  # it runs, is another user's, or has gone meanwhile
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
                _remove(folder)


def _remove(folder: Path) -> None:
    """Raises `OSError` if the server of this folder is still owned or guarded."""
    with (folder / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        prefix = lock.read()
        if _SHM_PREFIX.fullmatch(prefix):  # otherwise no process was started
            _kill_those_with(prefix.encode())
            clean(prefix, [])
        shutil.rmtree(folder, ignore_errors=True)


def _kill_those_with(word: bytes) -> None:
    """Kill the processes that have `word` in their command lines: the model processes do."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if word in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
