"""The process between us and `tritonserver`: it ends the server, whatever ended us.

Run as a script by `server_process.py`. Standard library only, and it imports nothing of ours,
so that it starts in 30 ms and cannot fail on our account.

    stdin   one line of JSON, the arguments of `guard` (an environment can be longer than a
            command line may be). Then held open by the parent: end of file, also by the
            parent's `kill -9`, means SIGTERM, requests in flight finish. The line "kill" means
            stop at once.
    stdout  one line, the server's process id
    exit    the server's exit status (128 + a signal's number), after nothing of it is left:
            no process of its group, no /dev/shm region of its prefix, no staging folder
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
#: How long a server on its way out may keep reporting requests before it is only a hang.
_MARGIN_S = 5.0


def guard(command: list[str], env: dict[str, str], shm_prefix: str, remove: list[str]) -> int:
    """Run `command` until it ends or stdin does. Returns its exit status, negative a signal."""
    libc = ctypes.CDLL(None)

    def die_with_the_guard() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    # The server inherits this: a log nobody reads any more must not end requests in flight.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    asked = _Stop()
    try:
        server = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            restore_signals=False,
            preexec_fn=die_with_the_guard,
        )
        try:
            print(server.pid, flush=True)
            _wait(server, asked)
        finally:
            kill_group(server.pid)
            status = server.wait()
    finally:
        clean(shm_prefix, remove)
    return status


def _first_line() -> bytes:
    """Unbuffered: what follows belongs to `_Stop`."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(sys.stdin.fileno(), 1)
        if not piece:
            sys.exit(0)
        line += piece
    return line


class _Stop:
    """What the parent, or a signal, asked for: nothing yet, "stop" or "kill"."""

    def __init__(self) -> None:
        self.signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signal)

    def _signal(self, *_: object) -> None:
        self.signalled = True

    def read(self) -> str:
        if select.select([sys.stdin.fileno()], [], [], _POLL_S)[0]:
            data = os.read(sys.stdin.fileno(), 100)
            return "kill" if b"kill" in data else "stop"
        return "stop" if self.signalled else ""


def _wait(server: subprocess.Popen[bytes], asked: _Stop) -> None:
    """Return once the server ended, or must be killed."""
    grace_s = _exit_timeout_s(server.args)  # type: ignore[arg-type]
    deadline = None
    while server.poll() is None:
        if deadline is not None:
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_S)
            continue
        word = asked.read()
        if word == "kill":
            return
        if word == "stop":
            deadline = time.monotonic() + grace_s + _MARGIN_S
            server.terminate()


def _exit_timeout_s(command: list[str]) -> float:
    name = "--exit-timeout-secs="
    return next((float(word[len(name) :]) for word in command if word.startswith(name)), 0.0)


def kill_group(pid: int) -> None:
    """End every process of the server's group: its Python models outlive it otherwise."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def clean(shm_prefix: str, remove: list[str]) -> None:
    """Delete the server's shared memory and its staging folders."""
    for path in SHARED_MEMORY.glob(f"{shm_prefix}*"):
        with contextlib.suppress(OSError):
            path.unlink()
    for folder in remove:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    status = guard(**json.loads(_first_line()))
    sys.exit(status if status >= 0 else 128 - status)
