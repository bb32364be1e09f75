"""What the front of `ois serve` adds to a click: the same bytes through it, and straight to Triton.

Both ways are asked in turns, by the same code, so that a disturbance affects both. The difference
contains reading, checking and writing the request again, two more hops between processes, and the
answer's way back.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import grpc
import numpy as np

from ois_client import Client
from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.images import Picture
from ois_client.contract.transport import ClickRequest
from ois_client.transports import grpc as grpc_messages
from ois_client.transports import http as http_messages
from ois_client.transports.exchange import Infer
from ois_client.wire import Message, click_message, info_message
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.front.settings import GRPC_PORT, GRPC_SOCKET, HTTP_SOCKET

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_WARM_UP = 10

#: Sends a request and waits for its answer.
Ask = Callable[[], object]


def through_and_straight(
    server: EmbeddedServer, client: Client, picture: Picture, count: int
) -> dict[str, dict[str, list[float]]]:
    """Protocol and kind of request -> milliseconds `through` the front and `straight` to Triton.

    client: has opened `picture` on `server`. count: requests of each.
    """
    width, height = picture.width, picture.height
    points, labels = pack_clicks([[Click(width // 2, height // 2)]], width, height)
    grid = (1, *client.info.fit(width, height).coverage_shape)
    none = np.zeros(grid, np.uint8), np.zeros(1, bool)
    messages: Mapping[str, Message] = {
        "description": info_message(),
        "click": click_message(ClickRequest(picture.digest, points, labels, *none)),
    }
    found = {}
    with ExitStack() as stack:
        for kind, message in messages.items():
            infer = Infer(message, {}, 60, 60)
            for protocol, ways in (
                ("gRPC", _over_grpc(server, infer, stack)),
                ("HTTP", _over_http(server, infer, stack)),
            ):
                found[f"{protocol}, {kind}"] = _in_turns(ways, count)
    return found


def _in_turns(ways: Mapping[str, Ask], count: int) -> dict[str, list[float]]:
    ms: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_WARM_UP + count):
        for name, ask in ways.items():
            began = time.perf_counter()
            ask()
            if number >= _WARM_UP:
                ms[name].append((time.perf_counter() - began) * 1e3)
    return ms


def _over_grpc(server: EmbeddedServer, infer: Infer, stack: ExitStack) -> dict[str, Ask]:
    body = grpc_messages.infer_request(infer).SerializeToString()
    targets = {
        "through": server.grpc_url.removeprefix("grpc://"),
        "straight": f"unix:{server.sockets / GRPC_SOCKET}:{GRPC_PORT}",
    }

    def way(target: str) -> Ask:
        options = [("grpc.max_receive_message_length", -1)]
        channel = stack.enter_context(grpc.insecure_channel(target, options))
        call = channel.unary_unary(_INFER)
        return lambda: call(body, timeout=60)

    return {name: way(target) for name, target in targets.items()}


def _over_http(server: EmbeddedServer, infer: Infer, stack: ExitStack) -> dict[str, Ask]:
    request = http_messages.infer_request(infer, None)

    def way(connection: http.client.HTTPConnection) -> Ask:
        stack.callback(connection.close)

        def ask() -> None:
            connection.request("POST", request.path, request.body, dict(request.headers))
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise http_messages.error_of(
                    answer.status, answer.reason, text, url=server.http_url, timeout_s=60
                )

        return ask

    return {
        "through": way(http.client.HTTPConnection(server.options.host, server.ports.http)),
        "straight": way(_UnixConnection(str(server.sockets / HTTP_SOCKET))),
    }


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)
