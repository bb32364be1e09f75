"""Runs a server, and ends when it ends or stops answering: `python supervise.py COMMAND...`.

Docker restarts a container whose main process ended, but not one whose health check fails. As a
command, this only checks that the HTTP port (OIS_HEALTH_PORT, 8000 by default) accepts connections:
`ois serve` restarts its own processes, but not the proxy that listens on this port.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

#: Longer than the 60 s that a server may take for the requests in progress.
_GRACE_S = 75.0


def supervise(
    words: Sequence[str],
    alive: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    every_s: float = 15.0,
    failures: int = 3,
    grace_s: float = _GRACE_S,
) -> int:
    """Run the command until it ends, and pass SIGTERM and SIGINT on. Returns its exit status.

    alive: whether the server answers. It is called every second until it returns True for the first
    time, and every `every_s` after that. If it then returns False `failures` times in a row, the
    command is ended, killed after `grace_s`, and the status is 1. There is no limit on the start,
    because a server that cannot load ends by itself.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        if child is not None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    child = subprocess.Popen(words, env=environment)
    if received:  # before the command was started
        child.terminate()
    answered, missed = False, 0
    while missed < failures:
        try:
            status = child.wait(timeout=every_s if answered else min(every_s, 1.0))
        except subprocess.TimeoutExpired:
            if received:
                continue  # it is stopping, with a time limit of its own
            now = alive()
            answered = answered or now
            missed = 0 if now or not answered else missed + 1
        else:
            return status if status >= 0 else 128 - status
    _say(f"the server failed to answer {failures} times in a row; ending for a restart")
    child.terminate()
    try:
        child.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return 1


def port_accepts_connections() -> bool:
    """Whether the container's HTTP port accepts connections."""
    address = "127.0.0.1", int(os.environ.get("OIS_HEALTH_PORT", "8000"))
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    print(f"ois: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:], port_accepts_connections))
