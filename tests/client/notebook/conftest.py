from __future__ import annotations

from collections.abc import Iterator

import pytest

from ois_client.sessions.client import Client
from support.tiny_engines import write_engines


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = write_engines(tmp_path_factory.mktemp("engines"))
    with Client(f"local:{folder}", threads=1) as client:
        yield client
