"""Two servers behind a real nginx that hashes the image's digest; then one of them is gone."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socketserver
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ois_client import Click, Client
from ois_client.contract.errors import InvalidImage, ServerUnavailable
from ois_client.contract.images import ImageLimits
from ois_client.transports.settings import Retries, Timeouts
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import eventually, get, statistics, triton_statistics
from support.server.nginx import Proxy, needs_nginx, nginx_before
from support.server.players import Player, pixels, play, play_while
from support.server.strangers import CLOSED, INFER, JSON, REFUSED
from support.wire_server import WireServer

pytestmark = needs_nginx

OPTIONS = ServerOptions(cache_bytes=16 * 2**20, exit_timeout_s=20)
TIMEOUTS = Timeouts(click_s=30, encode_s=30)
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
    for path in CLOSED:
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


@pytest.mark.parametrize(("path", "body", "headers", "status"), REFUSED)
def test_the_proxy_refuses_what_harms_triton(
    replicas: tuple[EmbeddedServer, EmbeddedServer],
    proxy: Proxy,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
) -> None:
    restarts = [server.restarts for server in replicas]
    assert status_of(f"{proxy.http_url}/{path}", body, headers) == status
    with Client(proxy.http_url) as client:
        assert client.open(pixels(5200)).click(40, 40).any()
    assert [server.restarts for server in replicas] == restarts


def test_a_body_without_a_length_does_not_reach_a_health_check(proxy: Proxy) -> None:
    host, port = proxy.http_url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", "/v2/health/live", iter([bytes(2**20)] * 8), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_short_json_cannot_overflow_the_stack(
    replicas: tuple[EmbeddedServer, EmbeddedServer], proxy: Proxy
) -> None:
    """The longest JSON that the proxy lets through, nested as deeply as it can be."""
    restarts = [server.restarts for server in replicas]
    for opening in (b"[", b'{"a":'):
        body = opening * (9_999 // len(opening))
        assert status_of(f"{proxy.http_url}/{INFER}", body, JSON) in (400, 500)
    assert [server.restarts for server in replicas] == restarts


def test_compressed_calls_are_refused_before_they_are_unpacked(
    replicas: tuple[EmbeddedServer, EmbeddedServer], proxy: Proxy
) -> None:
    """400 MiB of zeros are 400 KB on the wire. They never reach a server, nor its token."""
    before = [resident_bytes(server) for server in replicas]
    request = service_pb2.ModelInferRequest(model_name="ois_segment")
    request.raw_input_contents.append(bytes(400 * 2**20))
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(proxy.grpc_url.removeprefix("grpc://"), options) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="not accepted") as refused:
                infer(request, compression=grpc.Compression.Gzip, timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    after = [resident_bytes(server) for server in replicas]
    assert all(b - a < 50 * 2**20 for a, b in zip(before, after, strict=True))


def test_a_request_that_kills_a_replica_is_not_sent_to_the_next_one(tmp_path: Path) -> None:
    """A proxy cannot see everything. What kills a server must kill one, not all."""
    with (
        dying_server() as (one, first),
        dying_server() as (two, second),
        nginx_before([one, two], tmp_path) as proxy,  # type: ignore[list-item]
    ):
        assert status_of(f"{proxy.http_url}/{INFER}", b"{}", JSON) == 502
        assert len(first) + len(second) == 1


@contextlib.contextmanager
def dying_server() -> Iterator[tuple[SimpleNamespace, list[bytes]]]:
    """A server that closes the connection on every request, as one that crashes. Yields its
    addresses and the requests that it has got.
    """
    got: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if text := self.request.recv(2**16):
                got.append(text)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        host, port = server.server_address[:2]
        running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        running.start()
        try:
            yield (
                SimpleNamespace(
                    http_url=f"http://{host!s}:{port}", grpc_url=f"grpc://{host!s}:{port}"
                ),
                got,
            )
        finally:
            server.shutdown()
            running.join()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_any_replica_gives_one_answer_without_a_session(
    replicas: tuple[EmbeddedServer, EmbeddedServer], proxy: Proxy, engines: Path, protocol: str
) -> None:
    image, clicks = pixels({"grpc": 5300, "http": 5301}[protocol]), [Click(40, 40)]
    before = [triton_statistics(server)["ois_oneshot"] for server in replicas]
    with (
        Client(getattr(proxy, f"{protocol}_url")) as client,
        Client(f"local:{engines}") as twin,
    ):
        expected = twin.segment(image, clicks).masks

        def answered() -> list[int]:
            for _ in range(5):  # none has the image's features, so it does not matter who answers
                np.testing.assert_array_equal(client.segment(image, clicks).masks, expected)
            now = [triton_statistics(server)["ois_oneshot"] for server in replicas]
            return [count - then for count, then in zip(now, before, strict=True)]

        assert min(eventually(answered, lambda counts: min(counts) > 0)) > 0


def test_deadlines_stay_at_the_proxy(tmp_path: Path) -> None:
    """Triton 2.51 can crash when a deadline ends as the answer comes."""
    with WireServer() as server:
        address = SimpleNamespace(
            grpc_url=server.urls["grpc"].replace("localhost", "127.0.0.1"),
            http_url=server.urls["http"],
        )
        with nginx_before([address], tmp_path) as proxy:  # type: ignore[list-item]
            for url in (address.grpc_url, proxy.grpc_url):
                with Client(url, timeouts=Timeouts(connect_s=5)):
                    pass
            direct, proxied = server.deadlines_s
            assert direct <= 6
            assert proxied > 3600
            server.delay_s = 60
            began = time.monotonic()
            with pytest.raises(ServerUnavailable, match=r"within 0\.5 s"):
                Client(proxy.grpc_url, timeouts=Timeouts(connect_s=0.5))
            assert time.monotonic() - began < 30  # the client itself keeps the deadline
            assert eventually(lambda: server.given_up, lambda count: count == 1)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_image_above_the_proxys_limit_is_a_typed_error(proxy: Proxy, protocol: str) -> None:
    huge = np.zeros((5200, 5200, 3), np.uint8)  # 81 MB raw
    limits = ImageLimits(max_bytes=2**28)
    with (
        Client(getattr(proxy, f"{protocol}_url"), limits=limits) as client,
        pytest.raises(InvalidImage, match="larger than the server"),
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


def resident_bytes(server: EmbeddedServer) -> int:
    """Memory of the server's own process."""
    fields = Path(f"/proc/{server.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
