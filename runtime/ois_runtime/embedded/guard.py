"""The process between us and `tritonserver`: it ends the server, whatever ended us.

Run as a script by `server_process.py`. Standard library only, and it imports nothing of ours,
so that it starts in 30 ms and cannot fail on our account.

    stdin   one line of JSON, the arguments of `guard` (an environment can be longer than a
            command line may be). Then held open by the parent: end of file, also by the
            parent's `kill -9`, means SIGTERM: requests in flight finish, connections that are
            only kept open do not count. The line "kill" means stop at once.
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
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
#: How long a server on its way out may keep reporting requests before it is only a hang.
_MARGIN_S = 5.0
#: How long nothing may happen before open connections count as idle.
_QUIET_S = 1.0

_TCP = Path("/proc/net/tcp")  # the server listens on IPv4 only
_ESTABLISHED = "01"
_NOTHING_QUEUED = "00000000:00000000"


def guard(
    command: list[str], env: dict[str, str], shm_prefix: str, remove: list[str], busy: str
) -> int:
    """Run `command` until it ends or stdin does. Returns its exit status, negative a signal.

    busy: the folder in which its models count requests, see `serving_busy.py`.
    """
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
            _wait(server, asked, Quiet(_number(command, "--http-port="), Path(busy)))
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


class Quiet:
    """Whether a server on its way out only waits for HTTP connections that are kept open.

    Triton would wait for them until its exit timeout. They are idle when for a while no model
    began, ended or has a request, and no byte is on its way in either direction.
    """

    def __init__(self, http_port: float, busy: Path) -> None:
        self._port = f":{int(http_port):04X}"
        self._busy = busy
        self._before: object = None
        self._since = 0.0

    def reached(self) -> bool:
        """To be asked often: what happens between two questions counts as well."""
        counts = requests(self._busy)
        sockets = list(self._sockets())
        idle = (
            bool(counts and sockets)
            and all(begun == ended for begun, ended in counts.values())
            and not any(queued for queued in sockets)
        )
        now = time.monotonic()
        if not idle or counts != self._before:
            self._before, self._since = counts, now
            return False
        return now - self._since >= _QUIET_S

    def _sockets(self) -> Iterator[bool]:
        """For each HTTP connection, whether bytes wait to be read or sent."""
        for line in _TCP.read_text().splitlines()[1:]:
            _, local, _, state, queues = line.split()[:5]
            if local.endswith(self._port) and state == _ESTABLISHED:
                yield queues != _NOTHING_QUEUED


def requests(busy: Path) -> dict[str, tuple[int, int]]:
    """Process id -> requests begun and ended, of the models that still run."""
    found = {}
    for path in busy.glob("*"):
        data = path.read_bytes()
        if len(data) == 16 and Path(f"/proc/{path.name}").exists():
            begun, ended = struct.unpack("=QQ", data)
            found[path.name] = begun, ended
    return found


def _wait(server: subprocess.Popen[bytes], asked: _Stop, quiet: Quiet) -> None:
    """Return once the server ended, or must be killed."""
    grace_s = _number(server.args, "--exit-timeout-secs=")  # type: ignore[arg-type]
    deadline = None
    while server.poll() is None:
        if deadline is not None:
            if time.monotonic() > deadline or quiet.reached():
                return
            time.sleep(_POLL_S)
            continue
        word = asked.read()
        if word == "kill":
            return
        if word == "stop":
            deadline = time.monotonic() + grace_s + _MARGIN_S
            server.terminate()


def _number(command: list[str], name: str) -> float:
    """The value of an option; 0 without it."""
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
