"""Bodies are bounded, and work is cancelled when the browser disconnects."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ois_cli.demo.gateway.http import on_error, read_body, unless_disconnected
from ois_client.contract.errors import OISError

LIMIT = 1000


class Endless:
    """A route that never answers, and whether its work was cancelled."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self, request: Request) -> Response:
        await read_body(request, LIMIT)
        return await unless_disconnected(request, self._work())

    async def _work(self) -> Response:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Response()


async def size(request: Request) -> Response:
    return Response(str(len(await read_body(request, LIMIT))))


@pytest.fixture
def endless() -> Endless:
    return Endless()


@pytest.fixture
def place(endless: Endless) -> Iterator[tuple[str, int]]:
    routes = [Route("/endless", endless.__call__, methods=["POST"])]
    routes.append(Route("/size", size, methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={OISError: on_error})
    config = uvicorn.Config(app, lifespan="off", ws="none", log_level="error")
    server = uvicorn.Server(config)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def test_work_is_cancelled_when_the_browser_disconnects(
    place: tuple[str, int], endless: Endless
) -> None:
    with socket.create_connection(place) as connection:
        connection.sendall(b"POST /endless HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
        assert endless.began.wait(10)
        assert not endless.cancelled.is_set()
    assert endless.cancelled.wait(10)


@pytest.mark.parametrize(("sent", "status"), [(LIMIT, b"200"), (LIMIT + 1, b"400")])
def test_a_body_of_unknown_length_is_bounded(
    place: tuple[str, int], sent: int, status: bytes
) -> None:
    with socket.create_connection(place) as connection:
        head = b"POST /size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (sent, b"x" * sent))
        assert connection.recv(12) == b"HTTP/1.1 " + status
