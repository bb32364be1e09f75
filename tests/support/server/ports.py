"""Free ports for servers that bind them later.

The kernel may give a port that it called free to the next program that asks. So each worker of
pytest takes ports of its own, below those that the kernel gives away by itself.
"""

from __future__ import annotations

import itertools
import os
import socket

FIRST, WORKERS, EACH = 20_000, 4, 3_000  # the kernel's own begin at 32,768

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_next = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """A port of loopback that nobody uses, and that no other worker takes."""
    for number in itertools.islice(_next, EACH):
        port = FIRST + _worker * EACH + number % EACH
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
