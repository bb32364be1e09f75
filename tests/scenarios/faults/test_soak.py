"""Memory does not grow: of the server, the client, /dev/shm and the feature store.

Checked over 2,000 clicks, and over 320 clicks on images that evict each other from the store.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ois_client import Client
from ois_client.sessions.session import Session
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import metrics, statistics
from support.server.players import pixels

WARM_UP, CLICKS = 800, 2000
#: The store holds 13 of these images, so every click finds its image evicted.
IMAGES, SMALL_STORE = 40, 2**17
ROUNDS_BEFORE, ROUNDS = 3, 8
MIB = 2**20


@pytest.fixture(scope="module")
def own_server(engines: Path) -> Iterator[EmbeddedServer]:
    """A server that no other test uses."""
    with EmbeddedServer(engines, ServerOptions(cache_bytes=2**24)) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. server and client: private memory only."""

    server: int
    client: int
    shared: int
    store: int

    @classmethod
    def of(cls, server: EmbeddedServer) -> Memory:
        assert server.pid is not None
        assert server.front_pid is not None
        gc.collect()
        prefix = re.search(r"shm-region-prefix-name=([\w-]+)", server.printable_command())
        assert prefix is not None
        regions = Path("/dev/shm").glob(f"{prefix[1]}*")
        return cls(
            server=sum(map(private_bytes, (server.pid, server.front_pid, *server.python_models()))),
            client=private_bytes("self"),
            shared=sum(region.stat().st_size for region in regions),
            store=int(metrics(server)["ois_store_bytes"]),
        )


def private_bytes(pid: int | str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.M)
    return 1024 * sum(map(int, found))


def test_two_thousand_clicks_do_not_grow_memory(own_server: EmbeddedServer) -> None:
    with Client(own_server.grpc_url) as grpc, Client(own_server.http_url) as http:
        sessions = [(grpc if n % 2 else http).open(pixels(8000 + n // 2)) for n in range(8)]

        def work(session: Session) -> None:
            session.click(40, 40)
            session.click(60, 20, positive=False)
            session.undo()
            session.undo()  # so that the history does not grow

        def click(count: int) -> None:
            for _ in range(count // (2 * len(sessions))):
                list(pool.map(work, sessions))

        with ThreadPoolExecutor(4) as pool:
            click(WARM_UP)
            before, done = Memory.of(own_server), statistics(own_server)["ois_decoder"]
            click(CLICKS)
            after = Memory.of(own_server)
        assert statistics(own_server)["ois_decoder"] - done == CLICKS
    assert after.store == before.store
    assert after.shared == before.shared
    # 2,000 masks are 2.4 MB packed and 19 MB unpacked, so kept masks would show.
    assert after.server - before.server < 2 * MIB
    assert after.client - before.client < 1.5 * MIB


def test_images_that_evict_each_other_do_not_grow_memory(engines: Path) -> None:
    """Each click sends its image again, which is encoded and evicts another."""
    options = ServerOptions(cache_bytes=SMALL_STORE)
    with (
        EmbeddedServer(engines, options) as server,
        Client(server.grpc_url) as grpc,
        Client(server.http_url) as http,
    ):
        sessions = [(grpc if n % 2 else http).open(pixels(8100 + n)) for n in range(IMAGES)]

        def play(rounds: int) -> None:
            for _ in range(rounds):
                for session in sessions:
                    session.click(40, 40)
                    session.undo()

        play(ROUNDS_BEFORE)
        for _ in range(2):  # an allocator grows once and settles; a leak grows again
            before, done = Memory.of(server), statistics(server)
            play(ROUNDS)
            assert statistics(server)["ois_encoder"] - done["ois_encoder"] == ROUNDS * IMAGES
            after = Memory.of(server)
            assert after.shared == before.shared
            assert after.server - before.server < 2 * MIB
            if after.client - before.client < 1.5 * MIB:
                break
        assert metrics(server)["ois_store_evictions_total"] >= ROUNDS * IMAGES
    assert SMALL_STORE / 2 < after.store <= SMALL_STORE
    assert after.client - before.client < 1.5 * MIB
