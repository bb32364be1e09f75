"""Server processes: `ois serve` in a process of its own, and what remains of a server."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ois_runtime.embedded.command import Ports, choose_ports
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer

#: Marks tests outside tests/scenarios that need the server's wheel.
needs_server = pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None,
    reason="nvidia-pytriton is not installed: pip install -e '.[dev]'",
)


@contextmanager
def serving(
    engines: Path, *, cache_bytes: int = 2**28, own_token: bool = False, ports: Ports | None = None
) -> Iterator[tuple[subprocess.Popen[str], EmbeddedServer]]:
    """`ois serve`, ready. Yields its process, and an `EmbeddedServer` for its addresses only.

    own_token: it has a random token, as by default. ports: which to use; None takes free ones.
    """
    ports = ports or choose_ports(ServerOptions())
    options = ServerOptions(grpc_port=ports.grpc, http_port=ports.http, cache_bytes=cache_bytes)
    named = {"grpc": ports.grpc, "http": ports.http, "metrics": ports.metrics}
    words = [f"--{name}-port={port}" for name, port in named.items()]
    words += [f"--cache-bytes={cache_bytes}", *["--no-token"] * (not own_token)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ois_cli.main", "serve", f"--engines={engines}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed: list[str] = []
        while not (printed and printed[-1].startswith("ready")):
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            printed.append(line.strip())
        addresses = EmbeddedServer.__new__(EmbeddedServer)
        addresses.options, addresses.ports = options, ports
        assert f"gRPC:    {addresses.grpc_url}" in printed
        assert f"HTTP:    {addresses.http_url}" in printed
        assert f"metrics: {addresses.metrics_url}" in printed
        yield process, addresses
    finally:
        process.kill()
        process.communicate()


def shared_memory_of(pid: int) -> list[str]:
    """Names of the regions in /dev/shm of servers that this process started."""
    return sorted(path.name for path in Path("/dev/shm").glob(f"ois-{pid}-*"))


def processes_of(group: int) -> list[str]:
    """Names of the processes of a process group, without zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, process_group = rest.split()[:3]
        if int(process_group) == group and state not in "ZX":
            found.append(name)
    return found


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({int(child) for path in found for child in path.read_text().split()})
