"""`Session` for an event loop, with the same methods and rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.errors import Cancelled, OISError
from ois_client.contract.images import Picture
from ois_client.contract.steps import run_async
from ois_client.contract.transport import (
    AsyncTransport,
    ClickReply,
    ClickRequest,
    EncodeReply,
    ModelInfo,
)
from ois_client.sessions.base import Ask, SessionBase
from ois_client.sessions.history import PendingClick, Wants
from ois_client.sessions.progressive import Show, coarse_request
from ois_client.sessions.zoom import View

#: A click's request and its reply.
Answered = tuple[PendingClick, ClickReply]


class AsyncSession(SessionBase):
    """Clicks on the objects of one image. `AsyncClient.open` creates it.

    Only methods that need the server are coroutines. Clicks of several tasks wait for each other.
    A call that raises, or whose task is cancelled, leaves the session unchanged. If an object is
    changed while a click on it is in progress, for example by `undo`, that click raises
    `InvalidInput`.
    """

    def __init__(
        self, transport: AsyncTransport, picture: Picture, info: ModelInfo, zoom: bool = False
    ) -> None:
        super().__init__(picture, info, nullcontext(), zoom)
        self._transport = transport
        self._zooms = zoom
        self._lock = asyncio.Lock()
        self._calls: set[asyncio.Task[Answered]] = set()
        self._superseded: set[asyncio.Task[Answered]] = set()

    async def encode(self) -> EncodeReply:
        """Encode the image now, so that the first click does not wait for it."""
        self._last_encode = await self._transport.encode(self._picture)
        self._state.check_model(self._last_encode.model_sha256)
        return self._last_encode

    async def click(
        self,
        x: float,
        y: float,
        positive: bool = True,
        obj: int | None = None,
        *,
        want_depth: bool = False,
        want_logits: bool = False,
        want_order: bool = False,
        region: str | None = None,
        supersede: bool = False,
        on_coarse: Callable[[NDArray[np.uint8]], object] | None = None,
    ) -> NDArray[np.uint8]:
        """As `Session.click`. Cancelling the task cancels the click, on a gRPC server too.

        on_coarse is called on the event loop.
        """
        new = {self._obj(obj): Click(x, y, positive)}
        wants = Wants(want_depth, want_logits, want_order, region)
        show = None if on_coarse is None else lambda reply: on_coarse(reply.masks[0])
        return (await self._click(new, wants, supersede, show)).masks[0]

    async def click_many(
        self,
        clicks: Mapping[int, Click],
        *,
        want_depth: bool = False,
        want_logits: bool = False,
        want_order: bool = False,
        region: str | None = None,
        supersede: bool = False,
        on_coarse: Callable[[dict[int, NDArray[np.uint8]]], object] | None = None,
    ) -> dict[int, NDArray[np.uint8]]:
        """As `Session.click_many`."""
        new = dict(clicks)
        wants = Wants(want_depth, want_logits, want_order, region)

        def masks_of(reply: ClickReply) -> dict[int, NDArray[np.uint8]]:
            return dict(zip(new, reply.masks, strict=True))

        show = None if on_coarse is None else lambda reply: on_coarse(masks_of(reply))
        return masks_of(await self._click(new, wants, supersede, show))

    async def send(self, request: ClickRequest) -> ClickReply:
        """As `Session.send`."""
        reply = await self._send(request)
        self._state.check_model(reply.model_sha256)
        return reply

    async def _click(
        self, new: Mapping[int, Click], wants: Wants, supersede: bool, show: Show | None
    ) -> ClickReply:
        if supersede:
            self._superseded |= self._calls
            for earlier in self._calls:
                earlier.cancel()
        call = asyncio.ensure_future(self._ask(new, wants, show))
        self._calls.add(call)
        try:
            # Committed here, not in `_ask`: if this task is cancelled after the reply has arrived,
            # its caller gets no mask, so the session must not have the click.
            pending, reply = await call
            self._last_reply = self._state.commit(pending, reply)
            return self._last_reply
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if call not in self._superseded or (task is not None and task.cancelling()):
                raise
            raise Cancelled(
                "the click was cancelled for a newer one; nothing was changed"
            ) from None
        finally:
            self._calls.discard(call)
            self._superseded.discard(call)
            if call.done() and not call.cancelled() and call.exception() is None:
                self._lock.release()

    async def _ask(self, new: Mapping[int, Click], wants: Wants, show: Show | None) -> Answered:
        """Send the click. On success the session's lock stays held until `_click` has committed."""
        await self._lock.acquire()
        coarse: CoarseTask | None = None
        try:
            # Cutting a window decodes the picture.
            begin = partial(self._state.begin, new, wants)
            pending = await asyncio.to_thread(begin) if self._zooms else begin()
            if show is not None and self._has_coarse:
                ask = partial(self._ask_coarse, pending)
                coarse = CoarseTask(ask, show, self.coarse_after_s)
            return pending, await self._send(pending.request, pending.view)
        except BaseException:
            self._lock.release()
            raise
        finally:
            if coarse is not None:
                coarse.end()

    async def _ask_coarse(self, pending: PendingClick) -> ClickReply:
        reply = await self._transport.click(coarse_request(pending.request))
        return self._state.coarse(pending, reply)

    async def _send(self, request: ClickRequest, view: View | None = None) -> ClickReply:
        return await run_async(self._steps(request, view), self._perform)

    async def _perform(self, ask: Ask) -> ClickReply | ModelInfo:
        if ask is None:
            return await self._transport.info()
        return await self._transport.click(ask.request, ask.picture)


class CoarseTask:
    """`CoarseThread` as a task of the running event loop."""

    def __init__(
        self, ask: Callable[[], Awaitable[ClickReply]], show: Show, after_s: float
    ) -> None:
        self._ask, self._show, self._after_s = ask, show, after_s
        self._task = asyncio.ensure_future(self._run())

    def end(self) -> None:
        """As `CoarseThread.end`."""
        self._task.cancel()

    async def _run(self) -> None:
        await asyncio.sleep(self._after_s)
        try:
            reply = await self._ask()
        except OISError:
            return
        self._show(reply)
