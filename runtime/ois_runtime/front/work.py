"""What both protocols share: requests in progress, bytes that they hold, and the token."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from ois_client.contract.errors import ServerOverloaded
from ois_client.wire import TOKEN_HEADER

#: Bytes of all requests that are being read or passed on. Seven of the largest fit.
MAX_BYTES = 512 * 2**20

NO_TOKEN = f"expecting header '{TOKEN_HEADER}' with the token"
#: The client library takes it for a server that can be tried again.
NOT_READY = "the server is not ready: it is starting, or has just ended"


class Work:
    """Counts the requests in progress and their bytes. For one event loop."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._bytes = 0
        self._requests = 0
        self._none = asyncio.Event()
        self._none.set()

    def may(self, *given: str | None) -> bool:
        """Whether one of the headers that a client sent is the token, if one is needed."""
        if self._token is None:
            return True
        # No early end, so that the time says nothing about the token.
        found = [hmac.compare_digest((one or "").encode(), self._token) for one in given]
        return any(found)

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
        self._none.clear()
        try:
            yield
        finally:
            self._bytes -= size
            self._requests -= 1
            if not self._requests:
                self._none.set()

    async def ended(self, within_s: float) -> None:
        """Wait until no request is in progress, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._none.wait()
