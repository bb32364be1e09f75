"""Runs a server, and ends when it ends or no longer answers: `python supervise.py COMMAND...`.

A container's engine restarts a container whose process ended, not one whose health check fails.
As a command it looks at the door alone (OIS_HEALTH_PORT, 8000 by default): `ois serve` behind it
starts again what dies there, but not the proxy that is the door.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

#: Longer than the 60 s that a server takes at most for the requests in flight.
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
    """Run the command until it ends; SIGTERM and SIGINT are passed on. Returns its exit status.

    alive: asked every second until it is true, then every `every_s`; from then on, `failures`
    times false in a row end the command, and the status is 1. Before that nothing counts: loading
    takes as long as it takes, and what cannot load ends by itself.
    """
    asked: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        if child is not None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    child = subprocess.Popen(words, env=environment)
    if asked:  # before there was anybody to pass it on to
        child.terminate()
    answered, missed = False, 0
    while missed < failures:
        try:
            status = child.wait(timeout=every_s if answered else min(every_s, 1.0))
        except subprocess.TimeoutExpired:
            if asked:
                continue  # on its way out, for as long as its own limits let it
            now = alive()
            answered = answered or now
            missed = 0 if now or not answered else missed + 1
        else:
            return status if status >= 0 else 128 - status
    _say(f"no answer {failures} times in a row; ending, so that the container is restarted")
    child.terminate()
    try:
        child.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return 1


def door_is_open() -> bool:
    """Whether somebody listens at the container's HTTP port."""
    address = "127.0.0.1", int(os.environ.get("OIS_HEALTH_PORT", "8000"))
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    print(f"ois: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:], door_is_open))
