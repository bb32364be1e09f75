"""A deadline holds for the whole call, no matter how slowly the server sends or receives."""

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from ois_client import (
    Client,
    DeadlineExceeded,
    IncompatibleServer,
    InvalidImage,
    Retries,
    Timeouts,
)
from ois_client.contract.images import load_image
from ois_client.transports.blocking import open_transport
from ois_client.transports.event_loop import open_async_transport

PICTURE = load_image(np.zeros((6, 8, 3), np.uint8))
LARGE = load_image(np.zeros((3000, 4000, 3), np.uint8))  # larger than any socket buffer
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n"
REFUSED = b'{"error": "OIS:INVALID_IMAGE: all of it arrived"}'


@contextlib.contextmanager
def http_server(answer):
    """An HTTP server that calls `answer(connection)` for each connection; yields its URL."""
    with socket.socket() as listener, contextlib.ExitStack() as opened:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                opened.enter_context(connection)
                threading.Thread(target=quietly, args=(answer, connection), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def quietly(answer, connection):
    with contextlib.suppress(OSError):
        answer(connection)


def receive(connection):
    """One request, to the last byte of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    (length,) = (int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(2**20)


def encode_with_threads(url, picture, **options):
    transport = open_transport(url, **options)
    try:
        transport.encode(picture)
    finally:
        transport.close()


async def encode_on_an_event_loop(url, picture, **options):
    transport = open_async_transport(url, **options)
    try:
        await transport.encode(picture)
    finally:
        await transport.close()


@pytest.fixture(params=["blocking", "async"])
def encode(request):
    """A function that sends one picture and closes the transport."""
    if request.param == "blocking":
        yield encode_with_threads
        return
    loop = asyncio.new_event_loop()
    yield lambda *args, **options: loop.run_until_complete(
        encode_on_an_event_loop(*args, **options)
    )
    # A connection with unsent bytes closes only after the server has closed its end.
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()


@pytest.mark.parametrize("at_once", [b"", HEAD], ids=["head", "body"])
def test_an_answer_that_trickles_in_ends_at_the_deadline(encode, at_once):
    """Each byte comes in time, but the whole answer would take 20 s."""
    asked = []

    def drip(connection):
        receive(connection)
        asked.append(time.monotonic())
        connection.sendall(at_once)
        for byte in HEAD * 10:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    with http_server(drip) as url:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
            encode(url, PICTURE, timeouts=Timeouts(encode_s=0.5))
        assert time.monotonic() - begin < 10
        assert len(asked) == 1  # no retry after the deadline


def test_an_answer_in_pieces_before_the_deadline_is_accepted(encode):
    def pieces(connection):
        receive(connection)
        head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(REFUSED)}\r\n\r\n".encode()
        for byte in head + REFUSED:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)

    with (
        http_server(pieces) as url,
        pytest.raises(InvalidImage, match="all of it arrived"),
    ):
        encode(url, PICTURE, timeouts=Timeouts(encode_s=20))


def test_sending_a_large_picture_may_take_longer_than_connecting(encode):
    def late_reader(connection):
        time.sleep(1.2)
        receive(connection)
        head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(REFUSED)}\r\n\r\n".encode()
        connection.sendall(head + REFUSED)

    timeouts = Timeouts(connect_s=0.6, encode_s=20)
    with (
        http_server(late_reader) as url,
        pytest.raises(InvalidImage, match="all of it arrived"),
    ):
        encode(url, LARGE, timeouts=timeouts, retries=Retries(attempts=1))


def test_sending_ends_at_the_deadline_too(encode):
    with http_server(lambda _: time.sleep(10)) as url:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            encode(url, LARGE, timeouts=Timeouts(encode_s=0.5))
        assert time.monotonic() - begin < 8


def test_a_redirect_is_not_followed(encode):
    asked = []

    def redirect(connection):
        receive(connection)
        asked.append(connection)
        connection.sendall(b"HTTP/1.1 307 Moved\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n")

    with http_server(redirect) as url, pytest.raises(IncompatibleServer, match="HTTP 307"):
        encode(url, PICTURE, retries=Retries(attempts=1))
    assert len(asked) == 1


# -- gRPC -----------------------------------------------------------------------------------------


class Answers(grpc.GenericRpcHandler):
    """`count` empty messages and the status OK to every call."""

    def __init__(self, count):
        self._count = count

    def service(self, _):
        return grpc.unary_stream_rpc_method_handler(lambda *_: iter([b""] * self._count))


@pytest.mark.parametrize("count", [0, 2])
def test_a_grpc_answer_that_is_not_one_message_is_a_typed_error(count):
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Answers(count)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(IncompatibleServer, match=f"with {count} messages"):
            Client(f"grpc://127.0.0.1:{port}", retries=Retries(attempts=1))
    finally:
        server.stop(None).wait()
