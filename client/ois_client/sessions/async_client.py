"""`Client` for an event loop, with the same methods and rules."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.images import DEFAULT_LIMITS, ImageLimits, ImageSource, Picture, load_image
from ois_client.contract.transport import (
    AsyncStatelessTransport,
    AsyncTransport,
    ClickReply,
    ClickRequest,
    EncodeReply,
    ModelInfo,
    StatelessTransport,
    Transport,
    check_compatible,
)
from ois_client.sessions.async_session import AsyncSession
from ois_client.sessions.stateless import (
    Clicks,
    Coverages,
    check_first_round,
    is_of_another_model,
    stateless_request,
)
from ois_client.transports.address import is_server
from ois_client.transports.connect import connect


class AsyncClient:
    """Opens images for clicking, on one event loop.

        async with AsyncClient("grpc://host:8001") as client:
            session = await client.open("photo.jpg")
            mask = await session.click(512, 300)

    Arguments and errors are those of `Client`. A transport may be an `AsyncTransport` or blocking;
    blocking calls run in threads, as those of `local:` do. The constructor does not connect:
    `async with`, `connect` or the first `open` does.
    """

    def __init__(
        self,
        url: str | Transport | AsyncTransport,
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
        **options: Any,
    ) -> None:
        if options and not isinstance(url, str):
            raise InvalidInput(
                f"got the options {sorted(options)} with a transport that is already open; "
                "options go with an address"
            )
        self._url = url
        self._options = options
        self._limits = limits
        self._transport: AsyncTransport | None = None
        self._info: ModelInfo | None = None
        self._latest: ModelInfo | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def connect(self) -> ModelInfo:
        """Connect, check the model, and return its description. Does nothing if connected."""
        await self._ready()
        return self.info

    @property
    def info(self) -> ModelInfo:
        """The model behind the address at the time this client connected.

        Raises `InvalidInput` before that.
        """
        if self._info is None:
            raise InvalidInput(
                "this client is not connected yet; use `async with`, or await client.connect()"
            )
        return self._info

    async def open(
        self, image: ImageSource, *, encode: bool = True, zoom: bool = False
    ) -> AsyncSession:
        """Open a session on one image, as `Client.open` does."""
        transport, known = await self._ready()
        picture = await asyncio.to_thread(load_image, image, self._limits)
        if not encode:
            # No reply tells whether the server still runs the same model, so ask for it.
            return AsyncSession(transport, picture, await self._ask(transport), zoom)
        session = AsyncSession(transport, picture, known, zoom)
        try:
            await session.encode()
        except IncompatibleServer:
            # A new session can use the other model of a server that was restarted.
            now = await self._ask(transport)
            if now.model_sha256 == known.model_sha256:
                raise
            session = AsyncSession(transport, picture, now, zoom)
            await session.encode()
        return session

    async def segment(
        self, image: ImageSource, clicks: Clicks, *, coverage: Coverages | None = None
    ) -> ClickReply:
        """Segment an image once, in one request, as `Client.segment` does."""
        transport, known = await self._ready()
        picture = await asyncio.to_thread(load_image, image, self._limits)
        request = stateless_request(picture, clicks, coverage, known)
        if isinstance(transport, AsyncStatelessTransport):
            reply = await transport.segment(request, picture)
        else:
            reply = await transport.click(request, picture)
        if is_of_another_model(reply, known):
            await self._ask(transport)  # so that the next round can refine this reply's masks
            check_first_round(request)
        return reply

    async def close(self) -> None:
        """Close all connections, as `Client.close` does."""
        self._closed = True
        if self._transport is not None:
            await self._transport.close()

    async def _ready(self) -> tuple[AsyncTransport, ModelInfo]:
        async with self._connecting:
            if self._closed:
                raise InvalidInput("this client is closed; open a new one")
            if self._transport is None or self._latest is None:
                transport = await open_transport(self._url, self._options)
                try:
                    self._info = await self._ask(transport)
                    if self._closed:  # while this call waited
                        raise InvalidInput("this client was closed; open a new one")
                except BaseException:
                    await transport.close()
                    raise
                self._transport = transport
                return transport, self._info
            return self._transport, self._latest

    async def _ask(self, transport: AsyncTransport) -> ModelInfo:
        info = await transport.info()
        check_compatible(info)
        self._latest = info
        return info

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def open_transport(
    url: str | Transport | AsyncTransport, options: Mapping[str, Any]
) -> AsyncTransport:
    """Open the transport of an `AsyncClient`, for callers that keep clicks and coverage themselves.

    Call it on the event loop that will use the transport. Raises `InvalidInput` for a wrong
    address or option and `EngineError` if a package is not installed.
    """
    if isinstance(url, str):
        if is_server(url):
            from ois_client.transports.event_loop import open_async_transport

            return open_async_transport(url, **options)
        return InThreads(await asyncio.to_thread(connect, url, options))
    if inspect.iscoroutinefunction(url.click):
        return url  # type: ignore[return-value]
    return InThreads(url)  # type: ignore[arg-type]


class InThreads:
    """Runs a blocking transport in threads. The thread of a cancelled call continues."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def info(self) -> ModelInfo:
        return await asyncio.to_thread(self._transport.info)

    async def encode(self, picture: Picture) -> EncodeReply:
        return await asyncio.to_thread(self._transport.encode, picture)

    async def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        return await asyncio.to_thread(self._transport.click, request, picture)

    async def segment(self, request: ClickRequest, picture: Picture) -> ClickReply:
        if isinstance(self._transport, StatelessTransport):
            return await asyncio.to_thread(self._transport.segment, request, picture)
        return await self.click(request, picture)

    async def close(self) -> None:
        await asyncio.to_thread(self._transport.close)
