"""The server drops an image's features for lack of memory or by age; sessions go on unchanged."""

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
from support.server.calls import click_request, eventually, metrics, statistics
from support.server.players import Player, pixels, play, play_while

ROOM_FOR = 3
TTL_S = 4.0  # two clicks are closer together than this, on a busy machine too


@pytest.fixture(scope="module")
def forgetful(engines: Path, local: LocalTransport) -> Iterator[EmbeddedServer]:
    """A server that keeps three images, and each for some seconds."""
    before = local.stats().bytes
    local.encode(load_image(pixels(3000)))
    one = local.stats().bytes - before
    options = ServerOptions(cache_bytes=int(one * (ROOM_FOR + 0.5)), ttl_s=TTL_S)
    with EmbeddedServer(engines, options) as server:
        yield server


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_eviction_causes_an_encode_and_never_a_failed_click(
    forgetful: EmbeddedServer, engines: Path, protocol: str
) -> None:
    before = statistics(forgetful)["ois_encoder"]
    url = getattr(forgetful, f"{protocol}_url")
    with Client(url) as client, Client(f"local:{engines}") as twin:
        players = [Player(client, twin, pixels(3010 + n), seed=n) for n in range(8)]
        play(players, clicks=4, threads=1)  # fails if any click fails
    # No image was kept until its next click. Triton counts a request after it has answered.
    encodes = eventually(
        lambda: statistics(forgetful)["ois_encoder"] - before, lambda n: n >= 8 * 5
    )
    assert encodes == 8 * 5
    evictions = eventually(lambda: metrics(forgetful)["ois_store_evictions_total"], lambda n: n > 0)
    assert evictions > 0
    store = metrics(forgetful)
    assert store["ois_store_bytes"] <= store["ois_store_budget_bytes"]
    assert store["ois_store_images"] <= ROOM_FOR


def test_more_users_at_once_than_images_fit(forgetful: EmbeddedServer, engines: Path) -> None:
    """An image may be evicted before its next click, which then sends it again."""
    with Client(forgetful.grpc_url) as client, Client(f"local:{engines}") as twin:
        players = [Player(client, twin, pixels(3030 + n), seed=n) for n in range(8)]
        play_while(players, lambda: time.sleep(2))
        assert [error for player in players for error in player.errors] == []
        assert sum(player.answered for player in players) > 8


def test_an_idle_image_is_dropped_and_sent_again(forgetful: EmbeddedServer, engines: Path) -> None:
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
