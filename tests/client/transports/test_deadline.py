"""A deadline is for the whole call, however the server deals out its bytes."""

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

PICTURE = load_image(np.zeros((6, 8, 3), np.uint8))
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


@pytest.mark.parametrize("at_once", [b"", HEAD], ids=["head", "body"])
def test_an_answer_that_drips_in_is_late_all_the_same(at_once):
    """Every byte comes in time; the answer would take 20 s."""
    asked = []

    def drip(connection):
        receive(connection)
        asked.append(time.monotonic())
        connection.sendall(at_once)
        for byte in HEAD * 10:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    with http_server(drip) as url:
        transport = open_transport(url, timeouts=Timeouts(encode_s=0.5))
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
            transport.encode(PICTURE)
        assert time.monotonic() - begin < 1.5
        assert len(asked) == 1  # a deadline is over: not tried again
        transport.close()


def test_an_answer_that_comes_in_pieces_before_the_deadline_is_taken():
    def pieces(connection):
        receive(connection)
        head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(REFUSED)}\r\n\r\n".encode()
        for byte in head + REFUSED:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)

    with http_server(pieces) as url:
        transport = open_transport(url, timeouts=Timeouts(encode_s=20))
        with pytest.raises(InvalidImage, match="all of it arrived"):
            transport.encode(PICTURE)
        transport.close()


def test_sending_a_large_picture_may_take_longer_than_connecting():
    def late_reader(connection):
        time.sleep(0.6)
        receive(connection)
        head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(REFUSED)}\r\n\r\n".encode()
        connection.sendall(head + REFUSED)

    large = load_image(np.zeros((3000, 4000, 3), np.uint8))  # more than any buffer takes
    timeouts = Timeouts(connect_s=0.2, encode_s=20)
    with http_server(late_reader) as url:
        transport = open_transport(url, timeouts=timeouts, retries=Retries(attempts=1))
        with pytest.raises(InvalidImage, match="all of it arrived"):
            transport.encode(large)
        transport.close()


def test_sending_ends_at_the_deadline_too():
    large = load_image(np.zeros((3000, 4000, 3), np.uint8))
    with http_server(lambda _: time.sleep(10)) as url:
        transport = open_transport(url, timeouts=Timeouts(encode_s=0.5))
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            transport.encode(large)
        assert time.monotonic() - begin < 1.5
        transport.close()


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
