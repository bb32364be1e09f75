"""2,000 clicks, then 320 on images that push each other out of the store: memory of server and
client, /dev/shm and the feature store stay flat.
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
from support.server.calls import get, metrics, statistics
from support.server.players import pixels

WARM_UP, CLICKS = 800, 2000
#: The store holds 13 of these images, so that every click finds its own gone.
IMAGES, SMALL_STORE = 40, 2**17
ROUNDS_BEFORE, ROUNDS = 3, 8
MIB = 2**20


@pytest.fixture(scope="module")
def own_server(engines: Path) -> Iterator[EmbeddedServer]:
    """Nobody else's clicks in its memory."""
    with EmbeddedServer(engines, ServerOptions(cache_bytes=2**24)) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. server and client: without what they share with others."""

    server: int
    client: int
    shared: int
    store: int

    @classmethod
    def of(cls, server: EmbeddedServer) -> Memory:
        assert server.pid is not None
        gc.collect()
        prefix = re.search(r"shm-region-prefix-name=([\w-]+)", server.printable_command())
        assert prefix is not None
        regions = Path("/dev/shm").glob(f"{prefix[1]}*")
        metrics = get(str(server.metrics_url)).decode()
        store = re.search(r"^ois_store_bytes (\S+)", metrics, re.M)
        assert store is not None
        return cls(
            server=sum(map(private_bytes, (server.pid, *server.python_models()))),
            client=private_bytes("self"),
            shared=sum(region.stat().st_size for region in regions),
            store=int(float(store[1])),
        )


def private_bytes(pid: int | str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.M)
    return 1024 * sum(map(int, found))


def test_two_thousand_clicks_leave_memory_as_it_was(own_server: EmbeddedServer) -> None:
    with Client(own_server.grpc_url) as grpc, Client(own_server.http_url) as http:
        sessions = [(grpc if n % 2 else http).open(pixels(8000 + n // 2)) for n in range(8)]

        def work(session: Session) -> None:
            session.click(40, 40)
            session.click(60, 20, positive=False)
            session.undo()
            session.undo()  # the history stays as long as it is

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
    # 2,000 masks are 2.4 MB packed and 19 MB unpacked: nothing of the kind is kept.
    assert after.server - before.server < 2 * MIB
    assert after.client - before.client < 1.5 * MIB


def test_images_that_push_each_other_out_leave_memory_as_it_was(engines: Path) -> None:
    """Each click sends its image again, is encoded, and makes room by evicting another."""
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
        for _ in range(2):  # an allocator settles, in a process of a gigabyte; a leak goes on
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
