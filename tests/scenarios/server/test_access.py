"""Access: with a token only health checks are open, and some APIs are closed to everyone."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient import grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ois_client.contract.clicks import Click
from ois_client.wire import MODEL, click_message, info_message, read_info
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import GRPC_TOKEN_HEADER, click_request, get, get_json, infer, picture

TOKEN = "open-sesame"
_SHM = "/dev/shm/"


@pytest.fixture(scope="module")
def guarded(engines: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(engines, ServerOptions(token=TOKEN, cache_bytes=2**24)) as server:
        yield server


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_requests_with_the_token_are_answered(guarded: EmbeddedServer, protocol: str) -> None:
    image = picture(1)
    message = click_message(click_request(image, [Click(40, 40)]), picture=image)
    assert read_info(infer(guarded, message, protocol=protocol, token=TOKEN)).width == 112


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_requests_without_the_token_are_refused(
    guarded: EmbeddedServer, protocol: str, token: str | None
) -> None:
    with pytest.raises(InferenceServerException, match="expecting"):
        infer(guarded, info_message(), protocol=protocol, token=token)


def test_without_the_token_a_request_is_refused_before_its_body_is_read(
    guarded: EmbeddedServer,
) -> None:
    """Triton itself reads all of it first, and keeps a gigabyte."""
    head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000000"
    address = guarded.options.host, guarded.ports.http
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 403")
    before = resident_bytes(guarded.front_pid)
    request = service_pb2.ModelInferRequest(
        model_name=MODEL, raw_input_contents=[bytes(70 * 2**20)]
    )
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(guarded.grpc_url.removeprefix("grpc://"), options) as channel:
        infer_without = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for _ in range(4):
            with pytest.raises(grpc.RpcError) as refused:
                infer_without(request, timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert resident_bytes(guarded.front_pid) < before + 35 * 2**20


def resident_bytes(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "path",
    [
        "v2",
        f"v2/models/{MODEL}",
        f"v2/models/{MODEL}/config",
        "v2/models/stats",
        f"v2/models/{MODEL}/stats",
        "v2/systemsharedmemory/status",
        "v2/logging",
        "v2/trace/setting",
    ],
)
def test_without_the_token_http_gives_no_information(guarded: EmbeddedServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{guarded.http_url}/{path}")
    assert refused.value.code == 403
    refused.value.close()


def test_without_the_token_grpc_gives_no_information(guarded: EmbeddedServer) -> None:
    with triton_grpc.InferenceServerClient(guarded.grpc_url.removeprefix("grpc://")) as client:
        for call in (
            client.get_server_metadata,
            lambda: client.get_model_metadata(MODEL),
            lambda: client.get_model_config(MODEL),
            client.get_inference_statistics,
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
        ):
            with pytest.raises(InferenceServerException, match="expecting"):
                call()
        assert client.is_server_ready()


def test_health_needs_no_token_and_metrics_are_off(guarded: EmbeddedServer) -> None:
    for probe in ("live", "ready"):
        get(f"{guarded.http_url}/v2/health/{probe}")
    assert guarded.metrics_url is None


def test_with_a_token_metrics_need_a_port(engines: Path) -> None:
    ports = EmbeddedServer(engines, ServerOptions()).ports
    options = ServerOptions(token=TOKEN, metrics_port=ports.metrics)
    assert EmbeddedServer(engines, options).metrics_url is not None


def test_without_a_token_statistics_are_open(server: EmbeddedServer) -> None:
    assert get_json(f"{server.http_url}/v2")["name"] == "triton"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("v2/repository/index", {}),
        (f"v2/repository/models/{MODEL}/unload", {}),
        (f"v2/repository/models/{MODEL}/load", {}),
        (
            "v2/systemsharedmemory/region/mine/register",
            {"key": "/mine", "offset": 0, "byte_size": 64},
        ),
        ("v2/logging", {"log_verbose_level": 1}),
        ("v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ],
)
@pytest.mark.parametrize("which", ["open", "token"])
def test_model_control_and_shared_memory_are_closed(
    server: EmbeddedServer, guarded: EmbeddedServer, which: str, path: str, body: dict[str, object]
) -> None:
    chosen = server if which == "open" else guarded
    request = urllib.request.Request(
        f"{chosen.http_url}/{path}",
        data=json.dumps(body).encode(),
        headers={"authorization": TOKEN, "Content-Type": "application/json"},
        method="POST",
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 403
    refused.value.close()


@pytest.mark.parametrize("which", ["open", "token"])
def test_model_control_and_shared_memory_are_closed_over_grpc(
    server: EmbeddedServer, guarded: EmbeddedServer, which: str
) -> None:
    chosen = server if which == "open" else guarded
    headers = {GRPC_TOKEN_HEADER: TOKEN}
    with triton_grpc.InferenceServerClient(chosen.grpc_url.removeprefix("grpc://")) as client:
        for call in (
            lambda: client.load_model(MODEL, headers=headers),
            lambda: client.unload_model(MODEL, headers=headers),
            lambda: client.register_system_shared_memory("a", "/a", 8, headers=headers),
            lambda: client.update_log_settings({"log_verbose_level": 1}, headers=headers),
        ):
            with pytest.raises(InferenceServerException, match="closed to clients"):
                call()


def test_shared_memory_is_for_this_user_only(guarded: EmbeddedServer) -> None:
    """It holds pictures and features, which a token protects from others of this machine."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in guarded.python_models()]
    files = {Path(line.split()[5]) for text in maps for line in text.splitlines() if _SHM in line}
    assert files
    assert {path: oct(path.stat().st_mode & 0o077) for path in files} == dict.fromkeys(files, "0o0")
