"""A process between `EmbeddedServer` and its processes, which ends them if its parent dies.

`process.py` runs this file as a script. It imports the standard library only, so that it starts in
30 ms and cannot fail because of another package.

    stdin   One line of JSON with the arguments of `guard` (an environment can exceed the limit on
            command lines). The parent then keeps stdin open. End of file, which `kill -9` of the
            parent also causes, means SIGTERM: first for the front, which ends when no request is
            in progress, then for the server. (A request that calls another model fails if Triton
            unloads that model.) The line "kill" stops both at once.
    stdout  One line, the process ids of the server and of its front.
    exit    The server's exit status (128 + N for signal N), once everything of the server is gone:
            the processes of its group, its regions in /dev/shm and its staging folder.
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
#: Time for the server to exit after its own exit timeout, before it is killed.
_MARGIN_S = 5.0


def guard(
    command: list[str],
    front: list[str],
    settings: str,
    env: dict[str, str],
    shm_prefix: str,
    remove: list[str],
) -> int:
    """Run the server and its front until one of them ends or stdin does.

    command, env: of the server. front: the command of the front, which gets `settings` on its
    stdin. shm_prefix: prefix of the server's regions in /dev/shm. remove: folders to delete at the
    end. Returns the server's exit status; -N if signal N ended it.
    """
    libc = ctypes.CDLL(None)

    def die_with_the_guard() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    # The server inherits this. Otherwise it would die from SIGPIPE when its log is no longer read,
    # with requests still in progress.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    stop = _StopRequest()
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
            before = subprocess.Popen(
                front,
                stdin=subprocess.PIPE,
                stdout=sys.stderr,
                start_new_session=True,
                preexec_fn=die_with_the_guard,
            )
            try:
                assert before.stdin is not None
                with contextlib.suppress(OSError):  # it has ended, which is noticed below
                    before.stdin.write(settings.encode() + b"\n")
                    before.stdin.close()
                print(server.pid, before.pid, flush=True)
                _wait(server, before, stop)
            finally:
                before.kill()
                before.wait()
        finally:
            kill_group(server.pid)
            status = server.wait()
    finally:
        clean(shm_prefix, remove)
    return status


def _first_line() -> bytes:
    """Read a line of stdin without a buffer, so that the rest is left for `_StopRequest`."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(sys.stdin.fileno(), 1)
        if not piece:
            sys.exit(0)
        line += piece
    return line


class _StopRequest:
    """Whether the parent or a signal has asked to stop."""

    def __init__(self) -> None:
        self.signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signal)

    def _signal(self, *_: object) -> None:
        self.signalled = True

    def read(self) -> str:
        """Wait a moment for a request. Returns "stop", "kill" or ""."""
        if select.select([sys.stdin.fileno()], [], [], _POLL_S)[0]:
            data = os.read(sys.stdin.fileno(), 100)
            return "kill" if b"kill" in data else "stop"
        return "stop" if self.signalled else ""


def _wait(
    server: subprocess.Popen[bytes], front: subprocess.Popen[bytes], stop: _StopRequest
) -> None:
    """Return when the server has ended or should be killed."""
    grace_s = _option(server.args, "--exit-timeout-secs=")  # type: ignore[arg-type]
    while server.poll() is None and front.poll() is None:
        request = stop.read()
        if request == "kill":
            return
        if request == "stop":
            break
    else:
        return  # without the other, neither is of use
    deadline = time.monotonic() + grace_s
    for process, margin_s in ((front, 0.0), (server, _MARGIN_S)):
        process.terminate()
        while process.poll() is None and time.monotonic() < deadline + margin_s:
            time.sleep(_POLL_S)


def _option(command: list[str], name: str) -> float:
    """The value of a numeric option; 0 if it is not set."""
    return next((float(word[len(name) :]) for word in command if word.startswith(name)), 0.0)


def kill_group(pid: int) -> None:
    """Kill all processes of the server's group. Its Python models would otherwise outlive it."""
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
