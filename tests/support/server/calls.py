"""Requests to a server through Triton's own client library instead of `ois_client.Client`."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import Picture, load_image
from ois_client.contract.transport import ClickRequest
from ois_client.wire import (
    MODEL,
    ONESHOT_MODEL,
    Message,
    Tensors,
    error_from_text,
    info_message,
)
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.front.settings import GRPC_PORT, GRPC_SOCKET, HTTP_SOCKET
from support.tiny_engines import LONGEST, PATCH

GRPC_TOKEN_HEADER = "triton-grpc-protocol-authorization"

Value = TypeVar("Value")


def picture(seed: int, width: int = 112, height: int = 84) -> Picture:
    """An image of noise. Every seed gives a different one."""
    rng = np.random.default_rng(seed)
    return load_image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def click_request(image: Picture, *objects: list[Click], **want: bool) -> ClickRequest:
    points, labels = pack_clicks(objects, image.width, image.height)
    fit = Geometry.fit(image.width, image.height, longest=LONGEST, patch=PATCH)
    grid = (len(objects), fit.grid_height, fit.grid_width)
    none = np.zeros(grid, np.uint8), np.zeros(len(objects), bool)
    return ClickRequest(image.digest, points, labels, *none, **want)


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turns Triton's exception into the typed error that its text carries, if any."""
    try:
        yield
    except InferenceServerException as error:
        ours = error_from_text(error.message() or "")
        if ours is None:
            raise
        raise ours from error


def infer(
    server: EmbeddedServer,
    message: Message,
    *,
    model: str = MODEL,
    protocol: str = "grpc",
    token: str | None = None,
    timeout_s: float = 30,
) -> Tensors:
    """One request. Returns the outputs by name.

    To the models that clients may use, through the ports; to the others straight to Triton.
    Raises the typed error of the answer, or Triton's own exception.
    """
    library: Any = triton_grpc if protocol == "grpc" else triton_http
    inputs = []
    for name, array in message.tensors.items():
        item = library.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(array)
        inputs.append(item)
    outputs = [library.InferRequestedOutput(name) for name in message.outputs]
    url = getattr(server, f"{protocol}_url").partition("://")[2]
    if model not in (MODEL, ONESHOT_MODEL):
        assert protocol == "grpc"
        url = triton_target(server)
    options: dict[str, Any] = {"parameters": dict(message.parameters)}
    if protocol == "grpc":
        options["client_timeout"] = timeout_s
    if token is not None:
        options["headers"] = {GRPC_TOKEN_HEADER if protocol == "grpc" else "authorization": token}
    with library.InferenceServerClient(url) as client, typed_errors():
        result = client.infer(model, inputs, outputs=outputs or None, **options)
        names = (
            [output.name for output in result.get_response().outputs]
            if (protocol == "grpc")
            else [output["name"] for output in result.get_response()["outputs"]]
        )
        return {name: result.as_numpy(name) for name in names}


def triton_target(server: EmbeddedServer) -> str:
    """gRPC's name for the socket of Triton itself, where nothing is checked."""
    return f"unix:{server.sockets / GRPC_SOCKET}:{GRPC_PORT}"


class TritonConnection(http.client.HTTPConnection):
    """A connection to the HTTP socket of Triton itself."""

    def __init__(self, server: EmbeddedServer) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(server.sockets / HTTP_SOCKET)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


def statistics(server: EmbeddedServer) -> dict[str, int]:
    """Model -> inferences since the server's start, `ois_decoder` included.

    From Triton's statistics, and for the decoder from the metric `ois_decodes_total`, because it
    usually runs in the process of `ois_segment`. Metrics are published with a delay, in the order
    of the requests; once a request made here is counted, all earlier ones are.
    """
    counts = triton_statistics(server)
    if server.metrics_url is not None:
        name = 'ois_requests_total{kind="info",outcome="ok"}'
        asked = metrics(server).get(name, 0)
        infer(server, info_message())
        found = eventually(lambda: metrics(server), lambda now: now.get(name, 0) > asked)
        counts["ois_decoder"] = int(found["ois_decodes_total"])
    return counts


def triton_statistics(server: EmbeddedServer) -> dict[str, int]:
    """Model -> inferences since the server's start, from Triton's statistics alone."""
    stats = get_json(f"{server.http_url}/v2/models/stats")["model_stats"]
    return {model["name"]: model["inference_count"] for model in stats}


def metrics(server: EmbeddedServer) -> dict[str, float]:
    """The metrics whose names begin with `ois_`, as last published."""
    lines = get(str(server.metrics_url)).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("ois_"))
    return {name: float(value) for name, value in pairs}


def wait_until_in_progress(server: EmbeddedServer, size: int) -> None:
    """Return when requests of `size` bytes in all have arrived and are not yet answered."""
    name = "ois_request_bytes_in_progress"
    found = eventually(lambda: metrics(server)[name], lambda now: now >= size)
    assert found >= size, f"{found} bytes are in progress; expected {size}"


def get_json(url: str, headers: Mapping[str, str] | None = None) -> Any:
    return json.loads(get(url, headers))


def get(url: str, headers: Mapping[str, str] | None = None) -> bytes:
    request = urllib.request.Request(url, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=60) as reply:
        body: bytes = reply.read()
        return body


def settled(read: Callable[[], Value]) -> Value:
    """Read until two values in a row are equal: Triton counts a request after it has answered."""
    before = read()
    while True:
        time.sleep(0.2)
        if (now := read()) == before:
            return now
        before = now


def eventually(
    read: Callable[[], Value], fits: Callable[[Value], bool], within_s: float = 120
) -> Value:
    """Read until `fits` accepts the value or the time is over. Returns the last value.

    The time is for a very slow machine; only a test that fails waits for its end.
    """
    deadline = time.monotonic() + within_s
    while not fits(value := read()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value
