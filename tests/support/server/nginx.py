"""A real nginx on loopback, with the configuration that the containers use."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import eventually
from support.server.ports import free_ports

DOCKER = Path(__file__).resolve().parents[3] / "docker"

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None,
    reason="nginx is not installed: apt-get install --no-install-recommends nginx",
)


@dataclass(frozen=True, slots=True)
class Proxy:
    grpc_url: str
    http_url: str
    access_log: Path


@contextmanager
def nginx_before(
    servers: Sequence[EmbeddedServer], folder: Path, *more: str, scheme: str = ""
) -> Iterator[Proxy]:
    """nginx before `servers`. more: arguments of nginx_conf.py; scheme: "s" with TLS."""
    http, grpc = free_ports(2)
    arguments = [
        *("--folder", str(folder), "--access-log", str(folder / "access.log")),
        *("--http-listen", f"127.0.0.1:{http}", "--grpc-listen", f"127.0.0.1:{grpc}"),
        *(w for s in servers for w in ("--http", s.http_url.removeprefix("http://"))),
        *(w for s in servers for w in ("--grpc", s.grpc_url.removeprefix("grpc://"))),
        *more,
    ]
    command = [sys.executable, str(DOCKER / "nginx_conf.py"), *arguments]
    conf = folder / "nginx.conf"
    conf.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    words = ["nginx", "-e", "stderr", "-c", str(conf), "-g", "daemon off;"]
    with (folder / "error.log").open("w") as errors:
        process = subprocess.Popen(words, stderr=errors)
        try:
            assert eventually(lambda: all(map(listens, (http, grpc))), bool), (
                folder / "error.log"
            ).read_text()
            yield Proxy(
                f"grpc{scheme}://127.0.0.1:{grpc}",
                f"http{scheme}://127.0.0.1:{http}",
                folder / "access.log",
            )
        finally:
            process.terminate()
            process.wait(timeout=30)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
