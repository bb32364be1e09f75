"""HTTP to a Triton server: the messages, and blocking calls over urllib3.

A message is the binary form of the KServe protocol: JSON, then the bytes of each tensor. A header
says where the JSON ends. `http_async.py` sends the same messages on an event loop.
"""

from __future__ import annotations

import io
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from ois_client.contract.errors import IncompatibleServer, OISError, ServerUnavailable
from ois_client.contract.transport import Cancellation
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, Share, TritonOptions, Unshare
from ois_client.transports.failures import error_for, innermost_cause, status_of_http
from ois_client.transports.settings import TLS
from ois_client.wire import INPUTS, OUTPUTS, TOKEN_HEADER, Tensors
from ois_client.wire.schema import from_bytes, to_bytes

#: The header with the length of the JSON, in lower case.
JSON_LENGTH = "inference-header-content-length"

# -- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A POST. path: relative to the address."""

    path: str
    headers: Mapping[str, str]
    body: bytes


def new_id() -> str:
    """An id for a request, which the answer repeats."""
    return secrets.token_hex(8)


def infer_request(infer: Infer, token: str | None, request_id: str = "") -> HttpRequest:
    """request_id: see `tensors_of`; "" sends none."""
    message = infer.message
    inputs, contents = [], []
    for name, array in message.tensors.items():
        memory = infer.shared.get(name)
        if memory is None:
            contents.append(to_bytes(array))
            parameters: dict[str, Any] = {"binary_data_size": len(contents[-1])}
        else:
            parameters = {
                "shared_memory_region": memory.region,
                "shared_memory_byte_size": memory.size,
            }
        inputs.append(
            {
                "name": name,
                "datatype": INPUTS[name].datatype,
                "shape": array.shape,
                "parameters": parameters,
            }
        )
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in message.outputs]
    described: dict[str, Any] = {
        "inputs": inputs,
        "outputs": outputs,
        "parameters": dict(message.parameters),
    }
    if request_id:
        described["id"] = request_id
    text = json.dumps(described).encode()
    headers = {
        **_headers(token),
        **infer.headers,
        JSON_LENGTH: str(len(text)),
        # Any type but a form works: a large form would crash Triton 2.51.
        "content-type": "application/octet-stream",
    }
    return HttpRequest(f"/v2/models/{message.model}/infer", headers, b"".join([text, *contents]))


def share_request(share: Share, token: str | None) -> HttpRequest:
    memory = share.memory
    body = {"key": memory.key, "offset": 0, "byte_size": memory.size}
    path = f"/v2/systemsharedmemory/region/{memory.region}/register"
    return HttpRequest(path, _json_headers(token), json.dumps(body).encode())


def unshare_request(unshare: Unshare, token: str | None) -> HttpRequest:
    path = f"/v2/systemsharedmemory/region/{unshare.region}/unregister"
    return HttpRequest(path, _json_headers(token), b"{}")


def _headers(token: str | None) -> dict[str, str]:
    # aiohttp would ask for gzip by default. Triton then compresses every mask, which takes 10 ms
    # per click on a photograph of 3 megapixels. `mask_format` is the option for slow links.
    headers = {"accept-encoding": "identity"}
    if token is not None:
        headers[TOKEN_HEADER] = token
    return headers


def _json_headers(token: str | None) -> dict[str, str]:
    return {**_headers(token), "content-type": "application/json"}


#: What reading a damaged answer raises; `RecursionError` for JSON that is nested too deeply.
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def tensors_of(body: bytes, json_length: str | None, request_id: str = "") -> Tensors:
    """Return the outputs of an answer with status 200.

    json_length: the value of the header `JSON_LENGTH`; None if all of the body is JSON. Raises
    `IncompatibleServer` if the body is not an answer of Triton, and `ServerUnavailable` if it
    answers another request than `request_id`: over HTTP/1.1 an answer belongs to a request only by
    its turn, so what a connection delivers twice would be taken for the next answer.
    """
    try:
        end = len(body) if json_length is None else int(json_length)
        answer = json.loads(body[:end])
        if request_id and answer.get("id", request_id) != request_id:
            raise ServerUnavailable(
                "the answer is that of another request; something between the client and the "
                "server mixes up connections. Nothing was changed"
            )
        outputs = answer["outputs"]
        tensors: Tensors = {}
        for output in outputs:
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                tensors[name] = np.array(output["data"], OUTPUTS[name].dtype).reshape(shape)
            else:
                tensors[name] = from_bytes(name, datatype, shape, body[end : end + size])
                end += size
    except _DAMAGED as error:
        raise IncompatibleServer(
            f"the server's answer is not Triton's ({type(error).__name__}: {error}). Is this the "
            "HTTP address of a Triton server?"
        ) from error
    return tensors


def error_of(status: int, reason: str, body: bytes, *, url: str, timeout_s: float) -> OISError:
    """Return the typed error of an answer whose status is not 200."""
    try:
        text = str(json.loads(body)["error"])
    except _DAMAGED:
        text = f"HTTP {status} {reason}"  # a proxy's page has nothing more to show
    return error_for(status_of_http(status), text, url=url, timeout_s=timeout_s)


# -- blocking calls -------------------------------------------------------------------------------

#: Idle connections that stay open. More threads than that open further connections as needed.
_KEPT = 32


class BlockingHttp:
    """A pool of connections. Thread-safe.

    Triton does not notice that an HTTP client has disconnected, so cancelling a call would save
    nothing: it waits for the answer, which the transport then drops.
    """

    def __init__(self, address: Address, options: TritonOptions) -> None:
        self._address = address
        self._options = options
        self._token = partial(options.token_for, address)
        chosen: dict[str, Any] = {
            "maxsize": _KEPT,
            "socket_options": [
                *HTTPConnection.default_socket_options,
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            ],
        }
        self._pool: urllib3.HTTPConnectionPool
        if address.secure:
            context = (options.tls or TLS()).context()
            self._pool = urllib3.HTTPSConnectionPool(
                address.host, address.port, ssl_context=context, **chosen
            )
            self._pool.ConnectionCls = _SecureConnection
        else:
            self._pool = urllib3.HTTPConnectionPool(address.host, address.port, **chosen)
            self._pool.ConnectionCls = _PlainConnection

    def infer(self, infer: Infer, cancellation: Cancellation) -> Tensors:  # noqa: ARG002
        request_id = new_id()
        request = infer_request(infer, self._token(), request_id)
        answer = self._post(request, infer.timeout_s, infer.within_s)
        return tensors_of(answer.data, answer.headers.get(JSON_LENGTH), request_id)

    def share(self, share: Share) -> None:
        request = share_request(share, self._token())
        self._post(request, share.timeout_s, share.timeout_s)

    def unshare(self, unshare: Unshare) -> None:
        request = unshare_request(unshare, self._token())
        self._post(request, unshare.timeout_s, unshare.timeout_s)

    def close(self) -> None:
        self._pool.close()

    def _post(
        self, request: HttpRequest, timeout_s: float, within_s: float
    ) -> urllib3.BaseHTTPResponse:
        timeout_s = max(timeout_s, 1e-3)
        connect_s = min(timeout_s, self._options.timeouts.connect_s)
        deadline = time.monotonic() + timeout_s
        try:
            with _until(deadline):
                answer = self._pool.urlopen(
                    "POST",
                    self._address.path + request.path,
                    body=request.body,
                    headers=request.headers,
                    timeout=urllib3.Timeout(connect=connect_s, read=timeout_s),
                    retries=False,
                )
        except exceptions.ClosedPoolError as error:
            raise self._error("CANCELLED", str(error), within_s) from error
        except exceptions.ConnectTimeoutError as error:
            raise self._error("UNAVAILABLE", innermost_cause(error), within_s) from error
        except (exceptions.HTTPError, OSError) as error:
            # An error of any kind at the deadline is a consequence of the deadline.
            if isinstance(error, exceptions.ReadTimeoutError) or time.monotonic() >= deadline:
                raise self._error("DEADLINE_EXCEEDED", "", within_s) from error
            # Refused, unreachable, TLS, cut off, not HTTP: the caller can treat them alike.
            raise self._error("UNAVAILABLE", innermost_cause(error), within_s) from error
        if answer.status != 200:
            reason, url = answer.reason or "", str(self._address)
            raise error_of(answer.status, reason, answer.data, url=url, timeout_s=within_s)
        return answer

    def _error(self, status: str, text: str, timeout_s: float) -> OISError:
        return error_for(status, text, url=str(self._address), timeout_s=timeout_s)


# -- one deadline for a whole call ----------------------------------------------------------------
# The timeout of a socket, and so of urllib3, begins again with every byte: a server that trickles
# its answer could hold a call for hours. Each connection therefore gets a socket that sets its
# timeout to the time left before every operation. urllib3 passes nothing through to a
# connection, so the deadline is stored per thread.

_thread = threading.local()


@contextmanager
def _until(deadline: float) -> Iterator[None]:
    """Let this thread's sockets raise `TimeoutError` after `deadline`, of `time.monotonic`."""
    _thread.deadline = deadline
    try:
        yield
    finally:
        del _thread.deadline


def _left_s() -> float:
    left_s: float = _thread.deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the deadline has passed")
    return left_s


class _Socket:
    """A connected socket, used within `_until`, with one deadline for all it sends and receives."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(_left_s())
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002
        return io.BufferedReader(_Received(self._socket))


class _Received(io.RawIOBase):
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        # Keeps the socket open until this file is closed too, as every file of a socket does.
        self._file = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(_left_s())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _PlainConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock: Any = _Socket(self.sock)


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock: Any = _Socket(self.sock)
