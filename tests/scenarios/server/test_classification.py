"""Triton's output parameter `classification` cannot crash the server.

Triton 2.51 crashes if a client asks for the classes of an output of type BYTES, or over HTTP of an
empty one. A proxy does not see this, because it is inside the body, and 75 bytes are enough. So no
output of our models is of that type, and empty ones are left out. These requests go straight to
Triton: the front of `ois serve` refuses them.
"""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from ois_client import Client
from ois_client.wire import MODEL
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import TritonConnection, triton_target
from support.server.malformed import GOOD, RawRequest, Tensor
from support.server.malformed_models import GOOD_INPUTS
from support.server.players import pixels

REQUESTS: list[tuple[str, dict[str, Tensor]]] = [(MODEL, {}), (MODEL, GOOD), *GOOD_INPUTS.items()]
CLASSES = (1, 2**31 - 1, 2**62)


def outputs(engines: Path, model: str) -> dict[str, str]:
    """Output -> Triton's type, from the model's configuration."""
    config = (engines / "repository" / model / "config.pbtxt").read_text(encoding="utf-8")
    (part,) = re.findall(r"^output \[(.*?)^\]", config, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r'name: "(\w+)" +data_type: (\w+)', part))


def test_no_output_is_of_type_bytes(engines: Path) -> None:
    for model in (MODEL, *GOOD_INPUTS):
        assert "TYPE_STRING" not in outputs(engines, model).values(), model


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_classes_of_any_output_leave_the_server_alive(
    server: EmbeddedServer, engines: Path, protocol: str
) -> None:
    restarts, pid = server.restarts, server.pid
    requests = [
        RawRequest(
            f"{count} classes of {name}",
            inputs,
            outputs=(name,),
            model=model,
            output_parameters={"classification": count},
        )
        for model, inputs in REQUESTS
        for name in outputs(engines, model)
        for count in CLASSES
    ]
    answered = {"grpc": over_grpc, "http": over_http}[protocol](server, requests)
    assert answered > len(requests) // 2  # these are requests that Triton answers
    with Client(server.grpc_url) as client:
        assert client.open(pixels(8100)).click(40, 40).any()
    assert (server.restarts, server.pid) == (restarts, pid)


def over_grpc(server: EmbeddedServer, requests: list[RawRequest]) -> int:
    """Send the requests. Returns how many were answered without an error."""
    answered = 0
    with grpc.insecure_channel(triton_target(server)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for one in requests:
            error = stub.ModelInfer.future(one.message(), timeout=30).exception()
            refused = error is not None and error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error is None or refused, one.description
            answered += error is None
    return answered


def over_http(server: EmbeddedServer, requests: list[RawRequest]) -> int:
    connection = TritonConnection(server)
    answered = 0
    for one in requests:
        connection.request("POST", *one.http())
        response = connection.getresponse()
        text = response.read()
        assert response.status in (200, 400), f"{one.description}: {response.status} {text!r}"
        answered += response.status == 200
    connection.close()
    return answered
