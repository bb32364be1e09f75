"""The server may forget an image at any time: by size, by age. No session notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ois_client import Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import UnknownImage
from ois_client.contract.images import load_image
from ois_client.transports.blocking import open_transport
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import LocalTransport
from support.server.calls import click_request, eventually, get, statistics
from support.server.players import Player, pixels, play, play_while

ROOM_FOR = 3
TTL_S = 1.0


@pytest.fixture(scope="module")
def forgetful(engines: Path, local: LocalTransport) -> Iterator[EmbeddedServer]:
    """Room for three images, and no patience."""
    before = local.stats().bytes
    local.encode(load_image(pixels(3000)))
    one = local.stats().bytes - before
    options = ServerOptions(cache_bytes=int(one * (ROOM_FOR + 0.5)), ttl_s=TTL_S)
    with EmbeddedServer(engines, options) as server:
        yield server


def metric(server: EmbeddedServer, name: str) -> float:
    lines = get(str(server.metrics_url)).decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_eviction_costs_an_encode_and_never_a_click(
    forgetful: EmbeddedServer, engines: Path, protocol: str
) -> None:
    before = statistics(forgetful)["ois_encoder"]
    url = getattr(forgetful, f"{protocol}_url")
    with Client(url) as client, Client(f"local:{engines}") as twin:
        players = [Player(client, twin, pixels(3010 + n), seed=n) for n in range(8)]
        play(players, clicks=4, threads=1)  # any click that failed would fail here
    assert statistics(forgetful)["ois_encoder"] - before == 8 * 5  # each was out again in time
    evictions = eventually(lambda: metric(forgetful, "ois_store_evictions_total"), lambda n: n > 0)
    assert evictions > 0
    assert metric(forgetful, "ois_store_bytes") <= metric(forgetful, "ois_store_budget_bytes")
    assert metric(forgetful, "ois_store_images") <= ROOM_FOR


def test_more_people_at_once_than_there_is_room_for(
    forgetful: EmbeddedServer, engines: Path
) -> None:
    """An image may be out again before its next click; that brings it along. No click fails."""
    with Client(forgetful.grpc_url) as client, Client(f"local:{engines}") as twin:
        players = [Player(client, twin, pixels(3030 + n), seed=n) for n in range(8)]
        play_while(players, lambda: time.sleep(2))
        assert [error for player in players for error in player.errors] == []
        assert sum(player.answered for player in players) > 8


def test_an_image_nobody_clicks_on_is_forgotten_and_sent_again(
    forgetful: EmbeddedServer, engines: Path
) -> None:
    transport = open_transport(forgetful.grpc_url)
    with Client(transport) as client, Client(f"local:{engines}") as twin:
        player = Player(client, twin, pixels(3020), seed=0)
        assert player.click()
        before = statistics(forgetful)["ois_encoder"]
        assert player.click()
        assert statistics(forgetful)["ois_encoder"] == before
        time.sleep(TTL_S + 0.3)
        with pytest.raises(UnknownImage):
            transport.click(click_request(player.session.picture, [Click(1, 1)]))
        assert player.click()
        assert statistics(forgetful)["ois_encoder"] == before + 1
        player.check()
