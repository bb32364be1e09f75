"""HTTP on an event loop, over aiohttp. Its own module, since aiohttp takes 0.2 s to import."""

from __future__ import annotations

import io
import math
from functools import partial

import aiohttp

from ois_client.transports import http as messages
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, Share, TritonOptions, Unshare
from ois_client.transports.failures import error_for
from ois_client.transports.http import HttpRequest
from ois_client.transports.settings import TLS
from ois_client.wire import Tensors


class AsyncHttp:
    """A pool of connections. Triton does not stop a cancelled call; its answer is dropped."""

    def __init__(self, address: Address, options: TritonOptions) -> None:
        self._address = address
        self._options = options
        self._token = partial(options.token_for, address)
        secret = (options.tls or TLS()).context() if address.secure else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=secret), raise_for_status=False
        )
        scheme = "https" if address.secure else "http"
        self._base = f"{scheme}://{address.target}{address.path}"

    async def infer(self, infer: Infer) -> Tensors:
        request_id = messages.new_id()
        request = messages.infer_request(infer, self._token(), request_id)
        body, json_length = await self._post(request, infer.timeout_s, infer.within_s)
        return messages.tensors_of(body, json_length, request_id)

    async def share(self, share: Share) -> None:
        request = messages.share_request(share, self._token())
        await self._post(request, share.timeout_s, share.timeout_s)

    async def unshare(self, unshare: Unshare) -> None:
        request = messages.unshare_request(unshare, self._token())
        await self._post(request, unshare.timeout_s, unshare.timeout_s)

    async def close(self) -> None:
        await self._session.close()

    async def _post(
        self, request: HttpRequest, timeout_s: float, within_s: float
    ) -> tuple[bytes, str | None]:
        url = str(self._address)
        timeout_s = max(timeout_s, 1e-3)
        timeout = aiohttp.ClientTimeout(
            total=timeout_s,
            sock_connect=min(timeout_s, self._options.timeouts.connect_s),
            ceil_threshold=math.inf,  # do not round the deadline up to a whole second
        )
        try:
            async with self._session.post(
                self._base + request.path,
                data=io.BytesIO(request.body),  # in pieces; aiohttp warns about large bytes
                headers=request.headers,
                timeout=timeout,
                allow_redirects=False,  # pictures go only to the address that was given
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            # Both timeouts are OSErrors: of the whole call, and of connecting.
            late = isinstance(error, TimeoutError) and not isinstance(
                error, aiohttp.ConnectionTimeoutError
            )
            status = "DEADLINE_EXCEEDED" if late else "UNAVAILABLE"
            text = f"{type(error).__name__}: {error}"
            raise error_for(status, text, url=url, timeout_s=within_s) from error
        except RuntimeError as error:
            if not self._session.closed:
                raise
            raise error_for("CANCELLED", str(error), url=url, timeout_s=within_s) from error
        if answer.status != 200:
            raise messages.error_of(
                answer.status, answer.reason or "", body, url=url, timeout_s=within_s
            )
        return body, answer.headers.get(messages.JSON_LENGTH)
