"""The asyncio transport to a Triton server: performs the effects of an `Exchange`."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ois_client.contract.errors import Cancelled, InvalidInput, OISError
from ois_client.contract.images import Picture
from ois_client.contract.steps import run_async
from ois_client.contract.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_client.transports.address import Address
from ois_client.transports.exchange import (
    Effect,
    Exchange,
    Infer,
    Pause,
    Share,
    Steps,
    T,
    TritonOptions,
    Unshare,
)
from ois_client.wire import Tensors

_CLOSED = "the client was closed before the answer came"


class AsyncIO(Protocol):
    """The I/O of one protocol on one event loop. Every error is an `OISError`."""

    async def infer(self, infer: Infer) -> Tensors: ...

    async def share(self, share: Share) -> None: ...

    async def unshare(self, unshare: Unshare) -> None: ...

    async def close(self) -> None: ...


def open_async_transport(url: str, **options: object) -> AsyncTritonTransport:
    """`blocking.open_transport` for asyncio. Call it on the event loop that will use it."""
    address = Address.parse(url)
    chosen = TritonOptions.of(address, options)
    io: AsyncIO
    if address.scheme.startswith("grpc"):
        from ois_client.transports.grpc import AsyncGrpc

        io = AsyncGrpc(address, chosen)
    else:
        from ois_client.transports.http_async import AsyncHttp

        io = AsyncHttp(address, chosen)
    return AsyncTritonTransport(Exchange(address, chosen), io)


class AsyncTritonTransport:
    """An `AsyncTransport` to a server. Cancelling a task cancels its call."""

    def __init__(self, exchange: Exchange, io: AsyncIO) -> None:
        self._exchange = exchange
        self._io = io
        self._closed = False

    async def info(self) -> ModelInfo:
        return await self._run(self._exchange.info())

    async def encode(self, picture: Picture) -> EncodeReply:
        return await self._run(self._exchange.encode(picture))

    async def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        return await self._run(self._exchange.click(request, picture))

    async def segment(self, request: ClickRequest, picture: Picture) -> ClickReply:
        return await self._run(self._exchange.segment(request, picture))

    async def close(self) -> None:
        self._closed = True
        await self._io.close()

    async def _run(self, steps: Steps[T]) -> T:
        self._check_open(InvalidInput("this client is closed; open a new one"))
        try:
            return await run_async(steps, self._perform)
        except asyncio.CancelledError:
            if not _is_cancelled():
                self._check_open(Cancelled(_CLOSED))
            raise

    def _check_open(self, error: OISError) -> None:
        if self._closed:
            raise error

    async def _perform(self, effect: Effect) -> Tensors | None:
        self._check_open(Cancelled(_CLOSED))
        match effect:
            case Infer():
                return await self._io.infer(effect)
            case Pause():
                await asyncio.sleep(effect.seconds)
            case Share():
                await self._io.share(effect)
            case Unshare():
                await self._io.unshare(effect)
        return None


def _is_cancelled() -> bool:
    """Whether this task was cancelled, and not only its call because the channel was closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
