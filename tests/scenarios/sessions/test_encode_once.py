"""An image is encoded once, no matter how many clients click on it, by the server's counts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ois_client import Client
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import statistics, triton_statistics
from support.server.players import Player, pixels, play


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_encoder_runs_once_per_image_and_the_decoder_once_per_click(
    server: EmbeddedServer, engines: Path, protocol: str
) -> None:
    first = {"grpc": 1000, "http": 1100}[protocol]
    before = statistics(server)
    with Client(getattr(server, f"{protocol}_url")) as client, Client(f"local:{engines}") as twin:
        images = [pixels(first + n) for n in range(5)]
        players = [Player(client, twin, image, seed=n) for n, image in enumerate(images)]
        play(players, clicks=7)
        for player in players:  # needs no server
            player.session.undo()
            player.session.redo()
        for image in images:  # a second session on the same image
            session = client.open(image)
            assert session.last_encode is not None
            assert session.last_encode.cached
            session.click(3, 4)
        assert client.info.engine.endswith("clicks in the session model's process")
    after = statistics(server)
    assert after["ois_encoder"] - before["ois_encoder"] == 5
    assert after["ois_decoder"] - before["ois_decoder"] == 5 * 7 + 5


def test_triton_s_statistics_agree_when_the_decoder_is_a_model(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIS_DECODER", "triton")  # the default on a GPU
    with (
        EmbeddedServer(engines, ServerOptions(cache_bytes=16 * 2**20)) as server,
        Client(server.grpc_url) as client,
        Client(f"local:{engines}") as twin,
    ):
        before = triton_statistics(server)
        players = [Player(client, twin, pixels(1300 + n), seed=n) for n in range(3)]
        play(players, clicks=4)  # compares every mask with the engines in process
        after = triton_statistics(server)
        assert "process" not in client.info.engine
    assert after["ois_encoder"] - before["ois_encoder"] == 3
    assert after["ois_decoder"] - before["ois_decoder"] == 3 * 4


def test_the_same_image_from_many_clients_at_once_is_encoded_once(
    server: EmbeddedServer, engines: Path
) -> None:
    image = pixels(1200, 400, 300)
    together = threading.Barrier(16)
    before = statistics(server)

    def work(n: int) -> None:
        url = server.grpc_url if n % 2 else server.http_url
        with Client(url) as client, Client(f"local:{engines}") as twin:
            together.wait(timeout=30)
            player = Player(client, twin, image, seed=n)
            assert player.click(), player.errors
            player.check()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    after = statistics(server)
    assert after["ois_encoder"] - before["ois_encoder"] == 1
    assert after["ois_decoder"] - before["ois_decoder"] == 16
