"""Three real servers, shared by the tests of this folder. A server that a test kills restarts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer

OPTIONS = ServerOptions(cache_bytes=16 * 2**20, exit_timeout_s=20)


@pytest.fixture(scope="session")
def replicas(engines: Path) -> Iterator[list[EmbeddedServer]]:
    servers = [EmbeddedServer(engines, OPTIONS) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        try:
            list(pool.map(EmbeddedServer.start, servers))
            yield servers
        finally:
            list(pool.map(EmbeddedServer.stop, servers))
