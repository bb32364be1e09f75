"""Strangers at the ports of `ois serve`: web pages, and requests that crash Triton 2.51.

Nothing of this reaches Triton, which listens on Unix sockets only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ois_client import Client
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import get
from support.server.malformed import GOOD, RawRequest
from support.server.players import pixels
from support.server.strangers import CLOSED, INFER, JSON, REFUSED

pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.fixture(scope="module")
def unharmed(server: EmbeddedServer) -> Iterator[None]:
    before = server.pid, server.front_pid, server.restarts
    yield
    with Client(server.grpc_url) as one, Client(server.http_url) as other:
        assert one.open(pixels(8200)).click(40, 40).any()
        assert other.open(pixels(8201)).click(40, 40).any()
    assert (server.pid, server.front_pid, server.restarts) == before


def ask(
    server: EmbeddedServer,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    port: int | None = None,
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(
        server.options.host, port or server.ports.http, timeout=30
    )
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        with contextlib.suppress(ConnectionError):  # refused after the head
            connection.send(body or b"")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


# -- Triton itself --------------------------------------------------------------------------------


def test_triton_listens_on_sockets_of_this_user_only(server: EmbeddedServer) -> None:
    assert stat.S_IMODE(server.sockets.stat().st_mode) == 0o700
    listening = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    open_files = {str(one.readlink()) for one in Path(f"/proc/{server.pid}/fd").iterdir()}
    assert not {f"socket:[{inode}]" for inode in listening} & open_files


# -- web pages ------------------------------------------------------------------------------------

GOOD_PATH, GOOD_BODY, GOOD_HEADERS = RawRequest("", GOOD).http()


@pytest.mark.parametrize(
    "foreign",
    [
        {"Host": "evil.example:8000"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:8000"},  # there is no page of ours
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_a_web_page_can_neither_click_nor_read(
    server: EmbeddedServer, foreign: dict[str, str]
) -> None:
    for method, path, body, headers in (
        ("POST", GOOD_PATH, GOOD_BODY, GOOD_HEADERS),
        ("POST", GOOD_PATH, GOOD_BODY, {**GOOD_HEADERS, "Content-Type": "text/plain"}),
        ("GET", "/v2", None, {}),
        ("GET", "/v2/health/ready", None, {}),
    ):
        assert ask(server, method, path, body, {**headers, **foreign})[0] == 403
    assert ask(server, "GET", "/metrics", None, foreign, server.ports.metrics)[0] == 403
    assert ask(server, "OPTIONS", GOOD_PATH, None, foreign)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "LOCALHOST:80", "[::1]:8000"])
def test_this_machine_has_several_names(server: EmbeddedServer, host: str) -> None:
    assert ask(server, "GET", "/v2/health/ready", None, {"Host": host})[0] == 200
    assert ask(server, "POST", GOOD_PATH, GOOD_BODY, {**GOOD_HEADERS, "Host": host})[0] == 200


# -- what crashes Triton --------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body", "headers", "status"), REFUSED)
def test_what_harms_triton_is_refused(
    server: EmbeddedServer, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    method = "GET" if body is None else "POST"
    assert ask(server, method, f"/{path}", body, headers)[0] in (status, 403, 400)


def test_a_form_at_the_metrics_is_refused(server: EmbeddedServer) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for method in ("GET", "POST"):
        status, _ = ask(server, method, "/metrics", bytes(2**20), form, server.ports.metrics)
        assert status in (403, 413)
    for path in ("/", "/v2", "/metrics/"):
        assert ask(server, "GET", path, port=server.ports.metrics)[0] == 403
    assert b"ois_click_seconds" in get(str(server.metrics_url))


@pytest.mark.parametrize(
    "path", [one for one in CLOSED if "stats" not in one and "encoder" not in one]
)
def test_other_routes_are_closed(server: EmbeddedServer, path: str) -> None:
    assert ask(server, "GET", f"/{path}")[0] == 403


def test_classes_of_an_output_are_refused(server: EmbeddedServer) -> None:
    body = b'{"inputs":[],"outputs":[{"name":"INFO","parameters":{"classification":1}}]}'
    status, text = ask(server, "POST", f"/{INFER}", body, JSON)
    assert status == 400
    assert json.loads(text)["error"].startswith("OIS:INVALID_INPUT: got the output INFO")


def test_a_body_without_a_length_is_refused(server: EmbeddedServer) -> None:
    """A million chunks of one byte crash Triton."""
    with socket.create_connection((server.options.host, server.ports.http), timeout=30) as raw:
        raw.sendall(
            f"POST /{INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        with contextlib.suppress(ConnectionError):
            raw.sendall(b"1\r\n[\r\n" * 1000)
        assert raw.recv(100).startswith(b"HTTP/1.1 411")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"POST /" + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        b"Content-Length: 3\r\n\r\n{}",
        b"POST /" + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n{}",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        bytes(range(256)),
    ],
    ids=range(10),
)
def test_what_is_no_http_gets_an_error(server: EmbeddedServer, head: bytes) -> None:
    with socket.create_connection((server.options.host, server.ports.http), timeout=30) as raw:
        raw.sendall(head)
        raw.shutdown(socket.SHUT_WR)
        answer = raw.recv(100)
    assert answer == b"" or answer[9:10] == b"4", answer


def test_clients_that_send_slowly_or_fall_silent_stop_nobody(server: EmbeddedServer) -> None:
    begun = f"POST /{INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n".encode()
    held = []
    try:
        for number in range(300):
            one = socket.create_connection((server.options.host, server.ports.http), timeout=30)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.sendall((begun, begun + b"\r\n{", b"P", b"")[number % 4])
            held.append(one)
        with Client(server.http_url) as client:
            assert client.open(pixels(8210)).click(40, 40).any()
    finally:
        for one in held:
            one.close()


# -- gRPC -----------------------------------------------------------------------------------------


def test_compressed_calls_are_refused(server: EmbeddedServer) -> None:
    target = server.grpc_url.removeprefix("grpc://")
    request = RawRequest("", GOOD).message()
    request.raw_input_contents[0] = bytes(16 * 2**20)
    with grpc.insecure_channel(target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(request, compression=kind, timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_internal_models_and_large_messages_are_refused(server: EmbeddedServer) -> None:
    target = server.grpc_url.removeprefix("grpc://")
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(target, options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model in ("ois_encoder", "ois_decoder", "ois_encode", "ois_preprocess", ""):
            request = service_pb2.ModelInferRequest(model_name=model)
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(request, timeout=30)
            assert "open to clients" in (refused.value.details() or "")
        large = service_pb2.ModelInferRequest(raw_input_contents=[bytes(73 * 2**20)])
        for call, message in (
            (stub.ModelInfer, large),
            (stub.ModelReady, service_pb2.ModelReadyRequest(name="a" * 5000)),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call(message, timeout=60)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
