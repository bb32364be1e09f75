"""HTTP with threads, over urllib3: its pool is thread-safe, which tritonclient's client is not."""

from __future__ import annotations

import socket
import time

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection

from ois_client.contract.cancellation import Cancellation
from ois_client.contract.errors import OISError
from ois_client.transports import http_messages as messages
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, Share, TritonOptions, Unshare
from ois_client.transports.failures import error_for
from ois_client.transports.http_deadline import PlainConnection, SecureConnection, until
from ois_client.transports.http_messages import HttpRequest
from ois_client.transports.settings import TLS
from ois_client.wire import Tensors

#: Connections kept open; more threads than that open further ones for a while.
_KEPT = 32


class BlockingHttp:
    """A pool of connections.

    Triton does not notice that an HTTP client went away: a call given up goes on here until
    its answer comes, and is dropped then.
    """

    def __init__(self, address: Address, options: TritonOptions) -> None:
        self._address = address
        self._options = options
        alive = [
            *HTTPConnection.default_socket_options,
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ]
        self._pool: urllib3.HTTPConnectionPool
        kind: type[HTTPConnection]
        if address.secure:
            kind = SecureConnection
            self._pool = urllib3.HTTPSConnectionPool(
                address.host,
                address.port,
                maxsize=_KEPT,
                socket_options=alive,
                ssl_context=(options.tls or TLS()).context(),
            )
        else:
            kind = PlainConnection
            self._pool = urllib3.HTTPConnectionPool(
                address.host, address.port, maxsize=_KEPT, socket_options=alive
            )
        self._pool.ConnectionCls = kind

    def infer(self, infer: Infer, cancellation: Cancellation) -> Tensors:  # noqa: ARG002
        request = messages.infer_request(infer, self._options.token)
        answer = self._post(request, infer.timeout_s, infer.within_s)
        return messages.tensors_of(answer.data, answer.headers.get(messages.JSON_LENGTH))

    def share(self, share: Share) -> None:
        request = messages.share_request(share, self._options.token)
        self._post(request, share.timeout_s, share.timeout_s)

    def unshare(self, unshare: Unshare) -> None:
        request = messages.unshare_request(unshare, self._options.token)
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
            with until(deadline):
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
            raise self._error("UNAVAILABLE", _reason(error), within_s) from error
        except (exceptions.HTTPError, OSError) as error:
            # Whatever breaks off at the deadline does so because of it.
            if isinstance(error, exceptions.ReadTimeoutError) or time.monotonic() >= deadline:
                raise self._error("DEADLINE_EXCEEDED", "", within_s) from error
            # Refused, unreachable, TLS, cut off, not HTTP: for the caller nobody answers.
            raise self._error("UNAVAILABLE", _reason(error), within_s) from error
        if answer.status != 200:
            raise messages.error_of(
                answer.status,
                answer.reason or "",
                answer.data,
                url=str(self._address),
                timeout_s=within_s,
            )
        return answer

    def _error(self, status: str, text: str, timeout_s: float) -> OISError:
        return error_for(status, text, url=str(self._address), timeout_s=timeout_s)


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words: urllib3 wraps the system's error several times."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}"
