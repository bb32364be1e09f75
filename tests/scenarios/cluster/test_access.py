"""Token and TLS at the edge, in front of servers that have neither; and `ois cluster` itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ois_client import Client
from ois_client.contract.errors import AccessDenied, OISError
from ois_client.transports.settings import TLS, Retries, Timeouts
from ois_runtime.embedded.server import EmbeddedServer
from support.documents import ROOT
from support.server.calls import eventually, get
from support.server.envoy import Front, envoy_before, needs_envoy, replica
from support.server.players import Player, pixels
from support.server.ports import free_ports
from support.server.tls import self_signed
from support.wire_server import WireServer

pytestmark = needs_envoy

TOKENS = ("open-sesame", "second.token+/-")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(
    replicas: list[EmbeddedServer], certificate: tuple[Path, Path]
) -> Iterator[tuple[Front, TLS]]:
    files = {"certificate": certificate[0], "key": certificate[1]}
    with envoy_before(replicas[:1], tokens=TOKENS, **files) as front:
        yield front, TLS(ca=certificate[0])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_each_token_opens_the_edge_through_tls(
    secure: tuple[Front, TLS], engines: Path, protocol: str
) -> None:
    front, tls = secure
    with Client(f"local:{engines}") as twin:
        for token in TOKENS:
            with Client(getattr(front, f"{protocol}_url"), token=token, tls=tls) as client:
                player = Player(client, twin, pixels(8000), seed=0)
                assert all(player.click() for _ in range(2))
                player.check()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("token", [None, "open", "open-sesame2", "open-sesame,second.token+/-"])
def test_nobody_else_gets_in(secure: tuple[Front, TLS], protocol: str, token: str | None) -> None:
    front, tls = secure
    with pytest.raises(AccessDenied, match="token=") as refused:
        Client(getattr(front, f"{protocol}_url"), token=token, tls=tls)
    assert TOKENS[0] not in str(refused.value)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_without_tls_nothing_is_answered(secure: tuple[Front, TLS], protocol: str) -> None:
    url = getattr(secure[0], f"{protocol}_url").replace("s:", ":", 1)
    with pytest.raises(OISError):
        Client(url, token=TOKENS[0], timeouts=Timeouts(connect_s=2), retries=Retries(attempts=1))


def test_health_needs_no_token_and_descriptions_do(replicas: list[EmbeddedServer]) -> None:
    with envoy_before(replicas[:1], tokens=TOKENS) as front:
        assert get(f"{front.http_url}/v2/health/ready") == b""
        headers = {"authorization": TOKENS[1]}
        assert json.loads(get(f"{front.http_url}/v2", headers))["name"] == "triton"
        with pytest.raises(OSError, match="401"):
            get(f"{front.http_url}/v2")
        with grpc.insecure_channel(front.grpc_url.removeprefix("grpc://")) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=30).live
            with pytest.raises(grpc.RpcError, match="authorization"):
                stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=30)


def test_the_server_gets_the_token_that_was_checked() -> None:
    """Triton reads another header than proxies do: a client must not state two tokens."""
    with WireServer() as server:
        server.token = TOKENS[0]  # the replica requires it, of health checks too
        fake = Addresses(server.urls["grpc"], server.urls["http"])
        with envoy_before([fake], tokens=TOKENS) as front:
            assert not front.edge.unhealthy()
            server.headers.clear()
            with grpc.insecure_channel(front.grpc_url.removeprefix("grpc://")) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                stated = "triton-grpc-protocol-authorization"
                with pytest.raises(grpc.RpcError, match="restricted"):
                    stub.ModelInfer(
                        service_pb2.ModelInferRequest(model_name="ois_segment"),
                        metadata=[("authorization", TOKENS[1]), (stated, TOKENS[0])],
                        timeout=30,
                    )
            assert TOKENS[1] in [headers.get(stated) for headers in server.headers]


# -- the command ----------------------------------------------------------------------------------


def test_ois_cluster_serves_follows_its_file_and_stops(
    replicas: list[EmbeddedServer], engines: Path, tmp_path: Path
) -> None:
    http, rpc, stats = free_ports(3)
    file = tmp_path / "replicas.txt"
    file.write_text(f"# ours\n{replica(replicas[0]).name}\n")
    words = [
        *("--replicas", str(file), "--http", f"127.0.0.1:{http}", "--grpc", f"127.0.0.1:{rpc}"),
        *("--stats", f"127.0.0.1:{stats}", "--health-interval", "0.25"),
    ]
    with running(*words) as (process, lines):
        assert eventually(lambda: "ready; Ctrl-C stops" in lines.read_text(), bool)
        assert get(f"http://127.0.0.1:{stats}/ready").startswith(b"LIVE")
        alerts = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()
        told = get(f"http://127.0.0.1:{stats}/stats/prometheus").decode()
        named = set(re.findall(r"envoy_\w+", alerts))
        assert len(named) == 3
        assert not [name for name in named if f"{name}{{" not in told]
        with pytest.raises(OSError, match="404"):
            get(f"http://127.0.0.1:{stats}/quitquitquit")
        with Client(f"local:{engines}") as twin, Client(f"grpc://127.0.0.1:{rpc}") as client:
            player = Player(client, twin, pixels(8100), seed=0)
            assert player.click()
            file.write_text(f"{replica(replicas[1]).name}\n")
            assert eventually(lambda: "replicas: " in lines.read_text(), bool)
            assert player.click()  # the other replica got the image
            file.write_text("not a replica!\n")
            assert eventually(lambda: "stay as they were" in lines.read_text(), bool)
            assert player.click()
            player.check()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert re.search(r"^stopped$", lines.read_text(), re.M)


def test_a_port_in_use_is_an_error_that_names_it(replicas: list[EmbeddedServer]) -> None:
    taken = replicas[0].http_url.removeprefix("http://")
    (other,) = free_ports(1)
    name = replica(replicas[0]).name
    command = ["cluster", name, "--http", taken, "--grpc", f"127.0.0.1:{other}"]
    done = subprocess.run(
        [sys.executable, "-m", "ois_cli.main", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"cannot bind '{taken}'" in done.stderr


class Addresses:
    def __init__(self, grpc_url: str, http_url: str) -> None:
        self.grpc_url = grpc_url
        self.http_url = http_url


@contextmanager
def running(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`ois cluster`, and a file with all that it prints."""
    lines = Path(words[1]).with_name("printed.txt")
    with lines.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ois_cli.main", "cluster", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process, lines
        finally:
            process.kill()
            process.wait()
