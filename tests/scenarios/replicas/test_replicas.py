"""Two servers behind a real nginx that hashes the image's digest; then one of them is gone."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from ois_client import Client
from ois_client.contract.errors import InvalidImage, ServerUnavailable
from ois_client.contract.images import ImageLimits
from ois_client.transports.settings import Retries, Timeouts
from ois_runtime.embedded.command import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import eventually, get, statistics
from support.server.nginx import Proxy, needs_nginx, nginx_before
from support.server.players import Player, pixels, play, play_while

pytestmark = needs_nginx

OPTIONS = ServerOptions(cache_bytes=16 * 2**20, exit_timeout_s=20)
TIMEOUTS = Timeouts(click_s=5, encode_s=5)
IMAGES = 12


@pytest.fixture(scope="module")
def replicas(engines: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    with EmbeddedServer(engines, OPTIONS) as one, EmbeddedServer(engines, OPTIONS) as two:
        yield one, two


@pytest.fixture(scope="module")
def proxy(
    replicas: tuple[EmbeddedServer, EmbeddedServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with nginx_before(replicas, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_image_stays_on_one_replica(
    replicas: tuple[EmbeddedServer, EmbeddedServer], proxy: Proxy, engines: Path, protocol: str
) -> None:
    first = {"grpc": 5000, "http": 5100}[protocol]
    before = [statistics(server) for server in replicas]
    url = getattr(proxy, f"{protocol}_url")
    with Client(url) as client, Client(f"local:{engines}") as twin:
        players = [Player(client, twin, pixels(first + n), seed=n) for n in range(IMAGES)]
        play(players, clicks=4)
    after = [statistics(server) for server in replicas]
    encodes = [b["ois_encoder"] - a["ois_encoder"] for a, b in zip(before, after, strict=True)]
    clicks = [b["ois_decoder"] - a["ois_decoder"] for a, b in zip(before, after, strict=True)]
    assert sum(encodes) == IMAGES  # nobody's image was encoded by both
    assert clicks == [4 * count for count in encodes]
    assert min(encodes) > 0  # and both had some


def test_the_proxy_lets_nothing_through_but_clicks(proxy: Proxy) -> None:
    assert get(f"{proxy.http_url}/v2/health/ready") == b""
    for path in (
        "v2/repository/index",
        "v2/systemsharedmemory/status",
        "v2/models/stats",
        "v2/models/ois_encoder",
        "v2/models/ois_segment/../../repository/index",
        "metrics",
        "",
    ):
        assert status_of(f"{proxy.http_url}/{path}") == 403, path
    with triton_grpc.InferenceServerClient(proxy.grpc_url.removeprefix("grpc://")) as client:
        assert client.is_server_ready()
        for call in (
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            lambda: client.load_model("ois_segment"),
            lambda: client.register_system_shared_memory("a", "/a", 8),
            client.get_inference_statistics,
        ):
            with pytest.raises(InferenceServerException, match="closed to clients"):
                call()


def test_the_body_that_crashes_triton_does_not_reach_it(
    replicas: tuple[EmbeddedServer, EmbeddedServer], proxy: Proxy
) -> None:
    restarts = [server.restarts for server in replicas]
    url = f"{proxy.http_url}/v2/models/ois_segment/infer"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert status_of(url, bytes(6 * 2**20), form) == 415
    assert status_of(url, bytes(73 * 2**20), {"Content-Type": "application/json"}) == 413
    assert [server.restarts for server in replicas] == restarts
    with Client(proxy.http_url) as client:
        assert client.open(pixels(5200)).click(40, 40).any()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_image_above_the_proxys_limit_is_a_typed_error(proxy: Proxy, protocol: str) -> None:
    huge = np.zeros((5200, 5200, 3), np.uint8)  # 81 MB raw
    limits = ImageLimits(max_bytes=2**28)
    with (
        Client(getattr(proxy, f"{protocol}_url"), limits=limits) as client,
        pytest.raises(InvalidImage, match="scale"),
    ):
        client.open(huge)


# -- from here on the replicas disappear ---------------------------------------------------------


def test_one_of_two_replicas_gone_costs_no_click_that_was_answered(
    replicas: tuple[EmbeddedServer, EmbeddedServer], proxy: Proxy, engines: Path
) -> None:
    doomed = replicas[1]
    before = statistics(doomed)["ois_encoder"]
    with (
        Client(f"local:{engines}") as twin,
        Client(proxy.grpc_url, timeouts=TIMEOUTS) as grpc,
        Client(proxy.http_url, timeouts=TIMEOUTS) as http,
    ):
        players: list[Player] = []

        def mixed() -> bool:
            return 0 < statistics(doomed)["ois_encoder"] - before < len(players)

        # Ports decide whose image is where: eight of them may all be on one replica.
        while len(players) < 8 or (not mixed() and len(players) < 40):
            n = len(players)
            players.append(Player(grpc if n % 2 else http, twin, pixels(5300 + n), seed=n))
        assert mixed()

        def disappear() -> None:
            time.sleep(0.5)
            assert doomed.pid is not None
            os.killpg(doomed.pid, signal.SIGKILL)
            doomed.stop()  # or it would be started again
            time.sleep(2)

        play_while(players, disappear)
        for player in players:
            assert all(isinstance(error, ServerUnavailable) for error in player.errors)
            assert player.slowest_s < 2 * TIMEOUTS.click_s + TIMEOUTS.encode_s
            assert eventually(player.click, bool), player.errors[-1]
            player.check()
        # nginx passes a click on at once, so hardly any of them failed
        assert sum(len(player.errors) for player in players) <= len(players)


def test_no_replica_left_is_a_typed_error_and_the_sessions_stay(
    replicas: tuple[EmbeddedServer, EmbeddedServer], proxy: Proxy, engines: Path
) -> None:
    retries = Retries(attempts=2, backoff_s=0.05)
    with (
        Client(f"local:{engines}") as twin,
        Client(proxy.grpc_url, timeouts=TIMEOUTS, retries=retries) as grpc,
        Client(proxy.http_url, timeouts=TIMEOUTS, retries=retries) as http,
    ):
        players = [Player(client, twin, pixels(5401), seed=1) for client in (grpc, http)]
        assert all(player.click() for player in players)
        for server in replicas:
            server.stop()
        for player in players:
            assert not player.click()
            assert isinstance(player.errors[-1], ServerUnavailable)
            player.check()


def status_of(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
