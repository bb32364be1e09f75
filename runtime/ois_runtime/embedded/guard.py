"""A process between `EmbeddedServer` and `tritonserver` that ends the server if its parent dies.

`process.py` runs this file as a script. It imports the standard library only, so that it starts in
30 ms and cannot fail because of another package.

    stdin   One line of JSON with the arguments of `guard` (an environment can exceed the limit on
            command lines). The parent then keeps stdin open. End of file, which `kill -9` of the
            parent also causes, means SIGTERM: requests in progress finish, and connections that are
            merely kept open are dropped. The line "kill" stops the server at once. A request that
            calls another model fails if Triton unloads that model, so SIGTERM waits for the
            requests in progress.
    stdout  One line, the server's process id.
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
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
#: Time for the server to exit after its own exit timeout, before it is killed.
_MARGIN_S = 5.0
#: Connections count as idle after this time without activity.
_IDLE_S = 1.0

_TCP = Path("/proc/net/tcp")  # IPv4, the only protocol on which the server listens
_ESTABLISHED = "01"
_NOTHING_QUEUED = "00000000:00000000"


def guard(
    command: list[str], env: dict[str, str], shm_prefix: str, remove: list[str], busy: str
) -> int:
    """Run the server until it ends or stdin does.

    command, env: of the server. shm_prefix: prefix of its regions in /dev/shm. remove: folders to
    delete at the end. busy: the folder in which its models count requests, see
    `ois_runtime/serving/request_counter.py`.
    Returns the server's exit status; -N if signal N ended it.
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
            print(server.pid, flush=True)
            connections = IdleConnections(_option(command, "--http-port="), Path(busy))
            _wait(server, stop, connections, Path(busy))
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


class Drain:
    """Whether the requests that were in progress at a moment have ended.

    A model's counts do not tell requests apart. If it has ended as many as it had begun at that
    moment, they have ended, unless later ones have overtaken them; clicks rarely do.
    """

    def __init__(self, busy: Path) -> None:
        self._busy = busy
        self._begun = {pid: begun for pid, (begun, _) in request_counts(busy).items()}

    def done(self) -> bool:
        counts = request_counts(self._busy)
        return all(ended >= self._begun.get(pid, 0) for pid, (_, ended) in counts.items())


class IdleConnections:
    """Whether a stopping server only waits for HTTP connections that clients keep open.

    Triton waits for such connections until its exit timeout. They are idle if for a while no model
    begins, ends or works on a request, and no bytes are queued in either direction.
    """

    def __init__(self, http_port: float, busy: Path) -> None:
        self._port = f":{int(http_port):04X}"
        self._busy = busy
        self._last_counts: object = None
        self._since = 0.0

    def all_idle(self) -> bool:
        """Whether all open connections are idle. Call it repeatedly; the first calls say no."""
        counts = request_counts(self._busy)
        sockets = list(self._sockets())
        idle = (
            bool(counts and sockets)
            and all(begun == ended for begun, ended in counts.values())
            and not any(queued for queued in sockets)
        )
        now = time.monotonic()
        if not idle or counts != self._last_counts:
            self._last_counts, self._since = counts, now
            return False
        return now - self._since >= _IDLE_S

    def _sockets(self) -> Iterator[bool]:
        """For each HTTP connection, whether bytes are queued to be read or sent."""
        for line in _TCP.read_text().splitlines()[1:]:
            _, local, _, state, queues = line.split()[:5]
            if local.endswith(self._port) and state == _ESTABLISHED:
                yield queues != _NOTHING_QUEUED


def request_counts(busy: Path) -> dict[str, tuple[int, int]]:
    """Process id -> requests begun and ended, for each model process that still runs."""
    found = {}
    for path in busy.glob("*"):
        data = path.read_bytes()
        if len(data) == 16 and Path(f"/proc/{path.name}").exists():
            begun, ended = struct.unpack("=QQ", data)
            found[path.name] = begun, ended
    return found


def _wait(
    server: subprocess.Popen[bytes], stop: _StopRequest, connections: IdleConnections, busy: Path
) -> None:
    """Return when the server has ended or should be killed."""
    grace_s = _option(server.args, "--exit-timeout-secs=")  # type: ignore[arg-type]
    while server.poll() is None:
        request = stop.read()
        if request == "kill":
            return
        if request == "stop":
            break
    deadline = time.monotonic() + grace_s
    drain = Drain(busy)
    while server.poll() is None and not drain.done() and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    server.terminate()
    while server.poll() is None:
        if time.monotonic() > deadline + _MARGIN_S or connections.all_idle():
            return
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
