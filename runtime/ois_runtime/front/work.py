"""What both protocols share: requests in progress, bytes that they hold, and the token."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ois_client.contract.errors import ServerOverloaded, ServerUnavailable
from ois_client.wire import TOKEN_HEADER

#: Bytes of all requests that are being read or passed on. Seven of the largest fit.
MAX_BYTES = 512 * 2**20

NO_TOKEN = f"expecting header '{TOKEN_HEADER}' with the token"
#: The client library takes it for a server that can be tried again.
NOT_READY = "the server is not ready: it is starting, or has just ended"
STOPPING = "the server is stopping and takes no further requests; repeat the request later"
#: A server that answered a request during the last so many seconds tells its clients that it stops.
_LATELY_S = 2.0


class Work:
    """Counts the requests in progress and their bytes. For one event loop."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._bytes = 0
        self._requests = 0
        self._last = -math.inf  # when a request ended, by the monotonic clock
        self.stopping = False

    def may(self, *given: str | None) -> bool:
        """Whether one of the headers that a client sent is the token, if one is needed."""
        if self._token is None:
            return True
        # No early end, so that the time says nothing about the token.
        found = [hmac.compare_digest((one or "").encode(), self._token) for one in given]
        return any(found)

    @property
    def lately(self) -> bool:
        """Whether requests are in progress, or were during the last seconds."""
        return self._requests > 0 or time.monotonic() - self._last < _LATELY_S

    def check_open(self) -> None:
        """Raises `ServerUnavailable` once the server is stopping."""
        if self.stopping:
            raise ServerUnavailable(STOPPING)

    def gauges(self) -> str:
        """What is in progress, as Prometheus text."""
        return "".join(
            f"# HELP {name} {meaning}\n# TYPE {name} gauge\n{name} {value}\n"
            for name, meaning, value in (
                ("ois_requests_in_progress", "Requests that clients wait for", self._requests),
                ("ois_request_bytes_in_progress", "Bytes of these requests", self._bytes),
            )
        )

    @contextmanager
    def request(self, size: int) -> Iterator[None]:
        """A request of `size` bytes is in progress. Raises `ServerOverloaded` if too many are."""
        if self._bytes + size > MAX_BYTES:
            raise ServerOverloaded(
                f"requests of {self._bytes} bytes are in progress, and {MAX_BYTES} is the limit; "
                "try again later"
            )
        self._bytes += size
        self._requests += 1
        try:
            yield
        finally:
            self._bytes -= size
            self._requests -= 1
            self._last = time.monotonic()
