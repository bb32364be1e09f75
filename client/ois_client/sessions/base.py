"""The part of a session that needs no server; shared by `Session` and `AsyncSession`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput, OISError, UnknownImage
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import Picture
from ois_client.contract.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_client.sessions.history import SessionState
from ois_client.sessions.progressive import COARSE_AFTER_S
from ois_client.sessions.zoom import View, Window, Zoom


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A call of `click`. It includes the picture if the transport has lost the image's features."""

    request: ClickRequest
    picture: Picture | None = None


#: A step of `click_steps`: an attempt, or None for the transport's `info`.
Ask = Attempt | None


def click_steps(
    request: ClickRequest,
    picture: Picture,
    check_model: Callable[[str], None],
    *,
    new: bool = False,
) -> Generator[Ask, Any, ClickReply]:
    """One click, repeated with the picture if the server does not have the image.

    See `steps.py` for how to run it. check_model: raises if a sha256 is not that of the model
    that made the coverage. new: the server cannot have the image yet.
    """
    try:
        try:
            return (yield Attempt(request, picture if new else None))
        except UnknownImage:
            # The server evicted the image, was restarted, or is another replica. Image and click
            # are sent together: a full store can evict features before a separate click arrives.
            return (yield Attempt(request, picture))
    except InvalidInput:
        # The request was checked before it was sent, so the server may have a network of another
        # size.
        try:
            info: ModelInfo = yield None
        except OISError:
            pass
        else:
            check_model(info.model_sha256)
        raise


class SessionBase:
    """The objects of one image, their clicks and masks.

    In all methods, `obj` is an object's id from `new_object`. None means the newest object, which
    is 0 before the first `new_object`. `guard` is held during changes.

    coarse_after_s: how long a click with `on_coarse` waits for its full answer before it requests
    the coarse one. May be set. A second request beside the first makes the full answer later, by
    milliseconds where client and server share few cores.
    """

    def __init__(
        self,
        picture: Picture,
        info: ModelInfo,
        guard: AbstractContextManager[Any],
        zoom: bool = False,
    ) -> None:
        geometry = info.fit(picture.width, picture.height)
        self._picture = picture
        windows = Zoom(picture, info.fit) if zoom else None
        self._state = SessionState(picture.digest, geometry, info.model_sha256, windows)
        self._guard = guard
        self._has_coarse = info.coarse_answers
        self.coarse_after_s = COARSE_AFTER_S
        self._last_reply: ClickReply | None = None
        self._last_encode: EncodeReply | None = None

    # -- changes ---------------------------------------------------------------------------

    def start_from(self, mask: NDArray[np.generic], obj: int | None = None) -> None:
        """Set the object's previous mask, which the next click refines. `undo` reverts this.

        mask: (H, W) bool or 0/1, 1 = object. Raises `InvalidInput` if it is not a mask of this
        image.
        """
        with self._guard:
            self._state.start_from(self._obj(obj), mask)

    def undo(self, obj: int | None = None) -> NDArray[np.uint8]:
        """Undo the object's last step, if there is one -> the object's mask."""
        chosen = self._obj(obj)
        with self._guard:
            self._state.undo(chosen)
            return self._state.mask(chosen)

    def redo(self, obj: int | None = None) -> NDArray[np.uint8]:
        """Redo the step that was undone last, if there is one -> the object's mask."""
        chosen = self._obj(obj)
        with self._guard:
            self._state.redo(chosen)
            return self._state.mask(chosen)

    def reset(self, obj: int | None = None) -> None:
        """Clear the object's clicks, masks and history. The object itself remains."""
        with self._guard:
            self._state.reset(self._obj(obj))

    def new_object(self) -> int:
        """Add an object and return its id. From now on `obj=None` means this object."""
        with self._guard:
            return self._state.new_object()

    # -- state -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The session's name in the server's log."""
        return self._state.id

    @property
    def picture(self) -> Picture:
        return self._picture

    @property
    def geometry(self) -> Geometry:
        return self._state.geometry

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids of all objects, oldest first."""
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
        """(gh, gw) uint8 coverage of the object's mask (see `coverage.py`); None without a mask."""
        return self._state.history(self._obj(obj)).now.coverage

    def window(self, obj: int | None = None) -> Window | None:
        """The part of the image in which the object's last click was answered; None is all of it.

        Only sessions that zoom have windows.
        """
        return self._state.history(self._obj(obj)).now.window

    @property
    def last_reply(self) -> ClickReply | None:
        """The reply to the latest click, with its timings and the optional parts it requested."""
        return self._last_reply

    @property
    def last_encode(self) -> EncodeReply | None:
        """The reply to encoding the image; None if the image was not sent separately.

        If the image was sent with a click, its timings are in `last_reply`.
        """
        return self._last_encode

    def _repr_png_(self) -> bytes:
        """What notebooks show: the image with the masks and clicks of all objects."""
        from ois_client.sessions.picture import draw

        objects = self.objects
        return draw(self._picture, self.masks, {obj: self.clicks(obj) for obj in objects})

    def _steps(
        self, request: ClickRequest, view: View | None = None
    ) -> Generator[Ask, Any, ClickReply]:
        """`click_steps` for a request about the image, or about a window of it."""
        check = self._state.check_model
        if view is None:
            return click_steps(request, self._picture, check)
        return click_steps(request, view.picture, check, new=not view.sent)

    def _obj(self, obj: int | None) -> int:
        return self._state.objects[-1] if obj is None else obj
