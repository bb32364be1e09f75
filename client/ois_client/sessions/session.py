"""A session: the objects of one image and the clicks on them."""

from __future__ import annotations

import threading
from collections.abc import Mapping

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
from ois_client.sessions.base import Ask, SessionBase, click_steps
from ois_client.sessions.history import Wants


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
    ) -> None:
        """info: the model that must give all replies; None asks the transport.

        Raises `IncompatibleServer` if another model encoded the image, and what the transport
        raises.
        """
        self._lock = threading.Lock()
        super().__init__(picture, info or transport.info(), self._lock)
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

        Raises `InvalidClick` or `TooManyClicks` before anything is sent, `Cancelled` if it is
        superseded, and the errors of the transport. If the server has lost the image, the click
        is sent again together with the image.
        """
        new = {self._obj(obj): Click(x, y, positive)}
        wants = Wants(want_depth, want_logits, want_order, region)
        return self._click(new, wants, supersede).masks[0]

    def click_many(
        self,
        clicks: Mapping[int, Click],
        *,
        want_depth: bool = False,
        want_logits: bool = False,
        want_order: bool = False,
        region: str | None = None,
        supersede: bool = False,
    ) -> dict[int, NDArray[np.uint8]]:
        """Click once on each of several objects in one request -> their masks by object id.

        Options and errors are those of `click`. An error leaves all objects unchanged.
        """
        new = dict(clicks)
        wants = Wants(want_depth, want_logits, want_order, region)
        return dict(zip(new, self._click(new, wants, supersede).masks, strict=True))

    def send(self, request: ClickRequest) -> ClickReply:
        """Send a request about this image that the caller made. The session does not change.

        If the server has lost the image, it is sent along. Raises what `click` raises.
        """
        reply = self._send(request, Cancellation())
        self._state.check_model(reply.model_sha256)
        return reply

    def _click(self, new: Mapping[int, Click], wants: Wants, supersede: bool) -> ClickReply:
        cancellation = Cancellation()
        if supersede:
            for earlier in tuple(self._calls):
                earlier.cancel()
        self._calls.add(cancellation)
        try:
            with self._lock:
                cancellation.check()
                pending = self._state.begin(new, wants)
                reply = self._send(pending.request, cancellation)
                cancellation.check()
                self._state.commit(pending, reply)
                self._last_reply = reply
        finally:
            self._calls.discard(cancellation)
        return reply

    def _send(self, request: ClickRequest, cancellation: Cancellation) -> ClickReply:
        def perform(ask: Ask) -> ClickReply | ModelInfo:
            if ask is None:
                return self._transport.info()
            if isinstance(self._transport, CancellableTransport):
                return self._transport.click_until(ask.request, cancellation, ask.picture)
            return self._transport.click(ask.request, ask.picture)

        return run(click_steps(request, self._picture, self._state.check_model), perform)
