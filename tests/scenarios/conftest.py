"""One real embedded server, shared by all tests of this folder that do not stop it.

Tests that kill, restart or configure a server start their own `EmbeddedServer`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from ois_export.repository import write_repository
from ois_runtime.embedded import command
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import LocalTransport, open_transport
from ois_runtime.engines.manifest import Manifest
from support.server.ports import free_port
from support.tiny_engines import write_engines

CACHE_BYTES = 64 * 2**20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("pytriton") is not None:
        return
    skip = pytest.mark.skip(reason="nvidia-pytriton is not installed: pip install -e '.[dev]'")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _ports_of_this_worker() -> Iterator[None]:
    """Servers whose ports are free to choose take them from `support.server.ports`."""
    bind = command._bind
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_bind", lambda on, host, port: bind(on, host, port or free_port()))
        yield


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine folder of `tiny_engines` with its model repository."""
    folder = write_engines(tmp_path_factory.mktemp("engines"))
    write_repository(folder, Manifest.load(folder))
    return folder


@pytest.fixture(scope="session")
def server_log() -> list[str]:
    """Every line that `server` has logged so far."""
    return []


@pytest.fixture(scope="session")
def server(engines: Path, server_log: list[str]) -> Iterator[EmbeddedServer]:
    options = ServerOptions(cache_bytes=CACHE_BYTES)
    with EmbeddedServer(engines, options, log=server_log.append) as running:
        yield running


@pytest.fixture(scope="session")
def local(engines: Path) -> Iterator[LocalTransport]:
    """The same engines in this process, for the expected answers."""
    transport = open_transport(str(engines))
    yield transport
    transport.close()
