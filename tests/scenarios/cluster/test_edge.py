"""Envoy lets clicks through, and nothing that harms Triton."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ois_client import Click, Client
from ois_client.contract.errors import InvalidImage, ServerUnavailable
from ois_client.contract.images import ImageLimits
from ois_client.transports.settings import Timeouts
from ois_runtime.edge import rules
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import eventually, get, settled, triton_statistics
from support.server.envoy import PATIENT, Front, envoy_before, needs_envoy
from support.server.players import pixels
from support.server.ports import free_ports
from support.server.strangers import CLOSED, INFER, JSON, REFUSED
from support.wire_server import WireServer

pytestmark = needs_envoy


@pytest.fixture(scope="module")
def front(replicas: list[EmbeddedServer]) -> Iterator[Front]:
    with envoy_before(replicas, **PATIENT) as running:
        yield running


def test_http_and_grpc_find_the_same_features(replicas: list[EmbeddedServer], front: Front) -> None:
    """Both ports hash the same names, so a page and a script share what is encoded."""
    before = encodes(replicas)
    opened = 0
    with Client(front.http_url) as one, Client(front.grpc_url) as other:
        while opened < 6 or (min(new(replicas, before)) == 0 and opened < 60):
            image = pixels(7000 + opened)
            expected = one.open(image).click(40, 40)
            np.testing.assert_array_equal(other.open(image).click(40, 40), expected)
            opened += 1
    counts = settled(lambda: new(replicas, before))
    assert sum(counts) == opened  # nobody's image was encoded twice
    assert min(counts) > 0  # and every replica had some


def test_a_request_without_an_image_s_digest_goes_to_any_replica(
    replicas: list[EmbeddedServer], front: Front
) -> None:
    def asked() -> list[int]:
        return [triton_statistics(server)["ois_oneshot"] for server in replicas]

    before = settled(asked)
    with Client(front.grpc_url) as client:
        for _ in range(40):  # that all of them go to two replicas has a chance of 3 * (2/3) ** 40
            client.segment(pixels(7100), [Click(40, 40)])
    counts = [now - then for now, then in zip(settled(asked), before, strict=True)]
    assert sum(counts) == 40
    assert min(counts) > 0


def test_nothing_but_clicks_gets_through(front: Front) -> None:
    assert get(f"{front.http_url}/v2/health/ready") == b""
    for path in (*CLOSED, "v2/health/live?x=1", "v2/models/ois_segment%2Finfer"):
        assert answer_to(front, path, "GET")[0] in (400, 403), path
    assert answer_to(front, "v2/health/live", "POST")[0] == 403
    assert answer_to(front, INFER, "PUT", JSON)[0] == 403
    with grpc.insecure_channel(front.grpc_url.removeprefix("grpc://")) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=30).ready
        for call, request in (
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
            (stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(model_name="x")),
            (stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()),
            (stub.ModelStatistics, service_pb2.ModelStatisticsRequest()),
            (stub.LogSettings, service_pb2.LogSettingsRequest()),
        ):
            with pytest.raises(grpc.RpcError, match="closed to clients") as refused:
                call(request, timeout=30)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        long = service_pb2.ModelConfigRequest(name="x" * rules.MAX_DESCRIPTION_BYTES)
        with pytest.raises(grpc.RpcError, match="too large"):
            stub.ModelConfig(long, timeout=30)


@pytest.mark.parametrize(("path", "body", "headers", "status"), REFUSED)
def test_what_harms_triton_is_refused_before_it_is_read(
    front: Front, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    """The body is not even sent: its head is enough for a refusal."""
    method = "GET" if body is None else "POST"
    length = {} if body is None else {"Content-Length": str(len(body))}
    found, text = answer_to(front, path, method, {**headers, **length})
    assert found == status
    assert json.loads(text)["error"]


@pytest.mark.parametrize(
    "names", [["ois_encoder"], [], ["ois_segment", "ois_decoder"], ["ois_segment_2"]]
)
def test_internal_models_are_closed_over_grpc(front: Front, names: list[str]) -> None:
    """The name is in the body. If it is there twice, the last one counts for Triton too."""
    fields = [service_pb2.ModelInferRequest(model_name=name) for name in names]
    message = b"".join(field.SerializeToString() for field in fields)
    with grpc.insecure_channel(front.grpc_url.removeprefix("grpc://")) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="closed to clients") as refused:
            call(message, timeout=30)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError, match="closed to clients"):
            call(b"\x0a\xff", timeout=30)  # no message at all
        described = service_pb2.ModelInferRequest(model_name="ois_encoder").SerializeToString()
        described += service_pb2.ModelInferRequest(model_name="ois_segment").SerializeToString()
        assert b"ois_segment" in call(described, timeout=30)


def test_a_body_without_a_length_reaches_nobody(front: Front) -> None:
    for path, method, headers in (("v2/health/live", "GET", {}), (INFER, "POST", JSON)):
        host, port = urlsplit(front.http_url).netloc.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        chunks = iter([b"[" * 4096])
        connection.request(method, f"/{path}", chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()


def test_a_head_that_does_not_end_is_refused(front: Front) -> None:
    host, port = urlsplit(front.http_url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as endless:
        endless.sendall(
            b"POST /v2/models/ois_segment/infer HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000
        )
        assert b" 431 " in endless.recv(4096).split(b"\r\n")[0]


def test_compressed_calls_are_refused_before_they_are_unpacked(front: Front) -> None:
    request = service_pb2.ModelInferRequest(model_name="ois_segment")
    request.raw_input_contents.append(bytes(64 * 2**20))
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(front.grpc_url.removeprefix("grpc://"), options) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        with pytest.raises(grpc.RpcError, match="not accepted") as refused:
            infer(request, compression=grpc.Compression.Gzip, timeout=60)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_image_above_the_limit_is_a_typed_error(front: Front, protocol: str) -> None:
    huge = np.zeros((5200, 5200, 3), np.uint8)  # 81 MB raw
    with (
        Client(getattr(front, f"{protocol}_url"), limits=ImageLimits(max_bytes=2**28)) as client,
        pytest.raises(InvalidImage, match="larger than the server"),
    ):
        client.open(huge)


def test_deadlines_stay_at_the_edge() -> None:
    """Triton 2.51 can crash when a deadline ends as the answer comes."""
    with WireServer() as server, envoy_before([addresses(server)]) as front:
        server.deadlines_s.clear()
        with Client(front.grpc_url, timeouts=Timeouts(connect_s=30)):
            pass
        assert server.deadlines_s
        assert min(server.deadlines_s) > 3600
        server.delay_s = 30
        with pytest.raises(ServerUnavailable, match=r"within 0\.5 s"):
            Client(front.grpc_url, timeouts=Timeouts(connect_s=0.5))
        assert eventually(lambda: server.given_up, bool)  # the call was cancelled at the server


@pytest.mark.parametrize(
    "asks", [{}, {"x-envoy-retry-on": "5xx,reset", "x-envoy-max-retries": "3"}]
)
def test_a_request_that_a_replica_has_seen_is_not_sent_to_the_next_one(
    asks: dict[str, str],
) -> None:
    """It may be what killed the first. Not even if the client asks for it, as Envoy's own do."""
    with ExitStack() as stack:
        mortals = [stack.enter_context(mortal()) for _ in range(3)]
        front = stack.enter_context(envoy_before([one for one, _ in mortals]))
        status, text = answer_to(front, INFER, "POST", {**JSON, **asks}, b"{}")
        assert (status, json.loads(text)) == (503, {"error": rules.NO_REPLICA})
        assert sum(len(deaths) for _, deaths in mortals) == 1


# -- helpers --------------------------------------------------------------------------------------


def encodes(replicas: list[EmbeddedServer]) -> list[int]:
    return [triton_statistics(server)["ois_encoder"] for server in replicas]


def new(replicas: list[EmbeddedServer], before: list[int]) -> list[int]:
    return [now - then for now, then in zip(encodes(replicas), before, strict=True)]


def addresses(server: WireServer) -> SimpleNamespace:
    return SimpleNamespace(grpc_url=server.urls["grpc"], http_url=server.urls["http"])


def answer_to(
    front: Front, path: str, method: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, bytes]:
    """Status and text of the answer to exactly this request; nothing is added or corrected."""
    host, port = urlsplit(front.http_url).netloc.split(":")
    given = {"Host": "ois", **(headers or {})}
    if body:
        given["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{method} /{path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return response.status, response.read()


@contextmanager
def mortal() -> Iterator[tuple[SimpleNamespace, list[bytes]]]:
    """A server that dies of every request but health checks: it closes the connection.

    Yields its addresses and the bodies of those requests.
    """
    deaths: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if b'"probe"' in body:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            deaths.append(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            port = server.server_address[1]
            unused = f"grpc://127.0.0.1:{free_ports(1)[0]}"
            yield SimpleNamespace(http_url=f"http://127.0.0.1:{port}", grpc_url=unused), deaths
        finally:
            server.shutdown()
            thread.join()
