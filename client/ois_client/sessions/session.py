"""A session: the objects of one image and the clicks on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.images import Picture
from ois_client.contract.steps import run
from ois_client.contract.transport import (
    CancellableTransport,
    Cancellation,
    ClickReply,
    ClickRequest,
    ModelInfo,
    Transport,
)
from ois_client.sessions.base import Ask, Attempt, SessionBase
from ois_client.sessions.history import PendingClick, Wants
from ois_client.sessions.progressive import CoarseThread, Show, coarse_request
from ois_client.sessions.zoom import View


class Session(SessionBase):
    """Clicks on the objects of one image. `Client.open` creates it.

    In all methods, `obj` is an object's id from `new_object`. None means the newest object, which
    is 0 before the first `new_object`. A call that raises leaves the session unchanged. Calls from
    several threads wait for each other, except those that only read.
    """

    def __init__(
        self,
        transport: Transport,
        picture: Picture,
        *,
        encode: bool = True,
        info: ModelInfo | None = None,
        zoom: bool = False,
    ) -> None:
        """info: the model that must give all replies; None asks the transport. zoom: see
        `Client.open`.

        Raises `IncompatibleServer` if another model encoded the image, and what the transport
        raises.
        """
        self._lock = threading.Lock()
        super().__init__(picture, info or transport.info(), self._lock, zoom)
        self._transport = transport
        self._calls: set[Cancellation] = set()
        if encode:
            self._last_encode = transport.encode(picture)
            self._state.check_model(self._last_encode.model_sha256)

    def click(
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
        """Click at (x, y) in pixels of the original image -> the object's mask.

        The mask is (H, W) uint8, 1 = object.

        positive: True adds to the object, False removes from it.
        want_depth, want_logits, want_order: request these arrays; they are in `last_reply`.
        region: `full`, or `auto` to allow decoding only where the mask can change; default: `full`
        if logits are requested, else what the engines were opened with.
        supersede: cancel all clicks of this session that are in progress in other threads; they
        raise `Cancelled` there. With gRPC the server cancels them too. Otherwise their replies
        are awaited and dropped.
        on_coarse: called with a coarse mask if the click takes longer than `coarse_after_s` and the
        engines can make one (`client.info.coarse_answers`). It is called in another thread, and
        never after this method has returned or raised: that waits for it. The coarse mask is for
        showing only; the session, its history and the result do not depend on it.

        Raises `InvalidClick` or `TooManyClicks` before anything is sent, `Cancelled` if it is
        superseded, and the errors of the transport. If the server has lost the image, the click
        is sent again together with the image.
        """
        new = {self._obj(obj): Click(x, y, positive)}
        wants = Wants(want_depth, want_logits, want_order, region)
        show = None if on_coarse is None else lambda reply: on_coarse(reply.masks[0])
        return self._click(new, wants, supersede, show).masks[0]

    def click_many(
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
        """Click once on each of several objects in one request -> their masks by object id.

        Options and errors are those of `click`. An error leaves all objects unchanged.
        """
        new = dict(clicks)
        wants = Wants(want_depth, want_logits, want_order, region)

        def masks_of(reply: ClickReply) -> dict[int, NDArray[np.uint8]]:
            return dict(zip(new, reply.masks, strict=True))

        show = None if on_coarse is None else lambda reply: on_coarse(masks_of(reply))
        return masks_of(self._click(new, wants, supersede, show))

    def send(self, request: ClickRequest) -> ClickReply:
        """Send a request about this image that the caller made. The session does not change.

        If the server has lost the image, it is sent along. Raises what `click` raises.
        """
        reply = self._send(request, Cancellation())
        self._state.check_model(reply.model_sha256)
        return reply

    def _click(
        self, new: Mapping[int, Click], wants: Wants, supersede: bool, show: Show | None
    ) -> ClickReply:
        cancellation = Cancellation()
        coarse: CoarseThread | None = None
        if supersede:
            for earlier in tuple(self._calls):
                earlier.cancel()
        self._calls.add(cancellation)
        try:
            with self._lock:
                cancellation.check()
                pending = self._state.begin(new, wants)
                if show is not None and self._has_coarse:
                    ask = partial(self._ask_coarse, pending)
                    coarse = CoarseThread(ask, show, self.coarse_after_s)
                reply = self._send(pending.request, cancellation, pending.view)
                cancellation.check()
                reply = self._last_reply = self._state.commit(pending, reply)
        finally:
            self._calls.discard(cancellation)
            if coarse is not None:
                coarse.end()  # without the lock: `show` may use the session
        return reply

    def _ask_coarse(self, pending: PendingClick, cancellation: Cancellation) -> ClickReply:
        reply = self._ask(Attempt(coarse_request(pending.request)), cancellation)
        return self._state.coarse(pending, reply)

    def _ask(self, attempt: Attempt, cancellation: Cancellation) -> ClickReply:
        if isinstance(self._transport, CancellableTransport):
            return self._transport.click_until(attempt.request, cancellation, attempt.picture)
        return self._transport.click(attempt.request, attempt.picture)

    def _send(
        self, request: ClickRequest, cancellation: Cancellation, view: View | None = None
    ) -> ClickReply:
        def perform(ask: Ask) -> ClickReply | ModelInfo:
            if ask is None:
                return self._transport.info()
            return self._ask(ask, cancellation)

        return run(self._steps(request, view), perform)
