"""One image, its objects, and the clicks on them."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ois_client.clicks import Click
from ois_client.errors import UnknownImage
from ois_client.geometry import Geometry
from ois_client.images import Picture
from ois_client.state import PendingClick, SessionState
from ois_client.transport import ClickReply, EncodeReply, Transport


class Session:
    """Clicks on the objects of one image. `Client.open` makes it.

    Everywhere `obj` is an object's id from `new_object`; None means the newest object (0 when
    there was none). A call that raises leaves the session as it was. Calls from several threads
    wait for each other; reading masks and clicks does not wait.
    """

    def __init__(self, transport: Transport, picture: Picture, *, encode: bool = True) -> None:
        info = transport.info()
        geometry = Geometry.fit(
            picture.width, picture.height, longest=info.longest, patch=info.patch
        )
        self._transport = transport
        self._picture = picture
        self._state = SessionState(picture.digest, geometry)
        self._lock = threading.Lock()
        self._last_reply: ClickReply | None = None
        self._last_encode: EncodeReply | None = transport.encode(picture) if encode else None

    # -- clicks ----------------------------------------------------------------------------

    def click(
        self,
        x: float,
        y: float,
        positive: bool = True,
        obj: int | None = None,
        *,
        want_depth: bool = False,
        want_logits: bool = False,
    ) -> NDArray[np.uint8]:
        """One click at (x, y), pixels of the original image -> the object's mask.

        positive: True adds to the object, False removes from it. The mask is (H, W) uint8,
        1 = object. Depth and logits, when wanted, are in `last_reply`.

        Raises `InvalidClick` and `TooManyClicks` before anything is sent, and what the
        transport raises. When the server has lost the image, it is sent once more.
        """
        chosen = self._obj(obj)
        with self._lock:
            reply = self._send(
                self._state.begin(
                    {chosen: Click(x, y, positive)}, want_depth=want_depth, want_logits=want_logits
                )
            )
        return reply.masks[0]

    def click_many(
        self,
        clicks: Mapping[int, Click],
        *,
        want_depth: bool = False,
        want_logits: bool = False,
    ) -> dict[int, NDArray[np.uint8]]:
        """One click on each of several objects, in one request -> their masks by object.

        Raises what `click` raises; then no object has changed.
        """
        with self._lock:
            pending = self._state.begin(clicks, want_depth=want_depth, want_logits=want_logits)
            reply = self._send(pending)
        return dict(zip(pending.objects, reply.masks, strict=True))

    def start_from(self, mask: NDArray[np.generic], obj: int | None = None) -> None:
        """Take a mask made elsewhere as the object's previous mask; the next click refines it.

        mask: (H, W) bool or 0/1, 1 = object. Counts as a step: `undo` takes it back. Raises
        `InvalidInput` when it is not a mask of this image.
        """
        with self._lock:
            self._state.start_from(self._obj(obj), mask)

    def undo(self, obj: int | None = None) -> NDArray[np.uint8]:
        """Take back the object's last step -> its mask now. Without a step nothing happens."""
        chosen = self._obj(obj)
        with self._lock:
            self._state.undo(chosen)
            return self._state.mask(chosen)

    def redo(self, obj: int | None = None) -> NDArray[np.uint8]:
        """Repeat the step last undone -> the mask now. Without one nothing happens."""
        chosen = self._obj(obj)
        with self._lock:
            self._state.redo(chosen)
            return self._state.mask(chosen)

    def reset(self, obj: int | None = None) -> None:
        """Forget the object's clicks, masks and history; the object itself stays."""
        with self._lock:
            self._state.reset(self._obj(obj))

    def new_object(self) -> int:
        """Begin another object and return its id; from now on `obj=None` means this one."""
        with self._lock:
            return self._state.new_object()

    # -- what there is ---------------------------------------------------------------------

    @property
    def picture(self) -> Picture:
        return self._picture

    @property
    def geometry(self) -> Geometry:
        return self._state.geometry

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of all objects, oldest first."""
        return self._state.objects

    def clicks(self, obj: int | None = None) -> tuple[Click, ...]:
        return self._state.history(self._obj(obj)).now.clicks

    def mask(self, obj: int | None = None) -> NDArray[np.uint8]:
        """(H, W) uint8, 1 = object; all zero before the first click."""
        return self._state.mask(self._obj(obj))

    @property
    def masks(self) -> dict[int, NDArray[np.uint8]]:
        """The mask of every object, by id."""
        return {obj: self._state.mask(obj) for obj in self._state.objects}

    def coverage(self, obj: int | None = None) -> NDArray[np.uint8] | None:
        """(gh, gw) uint8 of the object's mask (see `coverage.py`); None while it has none."""
        return self._state.history(self._obj(obj)).now.coverage

    @property
    def last_reply(self) -> ClickReply | None:
        """The answer to the latest click, with timings and, when wanted, depth and logits."""
        return self._last_reply

    @property
    def last_encode(self) -> EncodeReply | None:
        """The answer when the image was last sent; None while it was not."""
        return self._last_encode

    # -- inside ----------------------------------------------------------------------------

    def _obj(self, obj: int | None) -> int:
        return self._state.objects[-1] if obj is None else obj

    def _send(self, pending: PendingClick) -> ClickReply:
        try:
            reply = self._transport.click(pending.request)
        except UnknownImage:
            # Evicted, restarted, or another replica: the features are a cache, nothing is lost.
            self._last_encode = self._transport.encode(self._picture)
            reply = self._transport.click(pending.request)
        self._state.commit(pending, reply)
        self._last_reply = reply
        return reply
