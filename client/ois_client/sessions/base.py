"""What blocking and async sessions share: everything that needs no server."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A click to ask a transport for; with the picture for one that lost its features."""

    request: ClickRequest
    picture: Picture | None = None


#: What a click may need of a transport: an attempt, or (None) its description.
Ask = Attempt | None


def click_steps(
    request: ClickRequest, picture: Picture, check_model: Callable[[str], None]
) -> Generator[Ask, Any, ClickReply]:
    """One click that survives a server without the image; yields what to ask, takes answers.

    check_model: raises when a model's sha256 is not the one that the coverage was made by.
    """
    try:
        try:
            return (yield Attempt(request))
        except UnknownImage:
            # Evicted, restarted, or another replica: the features are a cache, nothing is lost.
            # Image and click go together: from a full store, features that were sent ahead can
            # be gone again before their click comes.
            return (yield Attempt(request, picture))
    except InvalidInput:
        # The request was checked before it was sent; has the server got another network size?
        try:
            info: ModelInfo = yield None
        except OISError:
            pass
        else:
            check_model(info.model_sha256)
        raise


class SessionBase:
    """Everywhere `obj` is an object's id from `new_object`; None means the newest object (0 when
    there was none). `guard` is held while something changes.
    """

    def __init__(
        self,
        picture: Picture,
        info: ModelInfo,
        guard: AbstractContextManager[Any],
    ) -> None:
        geometry = Geometry.fit(
            picture.width, picture.height, longest=info.longest, patch=info.patch
        )
        self._picture = picture
        self._state = SessionState(picture.digest, geometry, info.model_sha256)
        self._guard = guard
        self._last_reply: ClickReply | None = None
        self._last_encode: EncodeReply | None = None

    # -- changes ---------------------------------------------------------------------------

    def start_from(self, mask: NDArray[np.generic], obj: int | None = None) -> None:
        """Take a mask made elsewhere as the object's previous mask; the next click refines it.

        mask: (H, W) bool or 0/1, 1 = object. Counts as a step: `undo` takes it back. Raises
        `InvalidInput` when it is not a mask of this image.
        """
        with self._guard:
            self._state.start_from(self._obj(obj), mask)

    def undo(self, obj: int | None = None) -> NDArray[np.uint8]:
        """Take back the object's last step -> its mask now. Without a step nothing happens."""
        chosen = self._obj(obj)
        with self._guard:
            self._state.undo(chosen)
            return self._state.mask(chosen)

    def redo(self, obj: int | None = None) -> NDArray[np.uint8]:
        """Repeat the step last undone -> the mask now. Without one nothing happens."""
        chosen = self._obj(obj)
        with self._guard:
            self._state.redo(chosen)
            return self._state.mask(chosen)

    def reset(self, obj: int | None = None) -> None:
        """Forget the object's clicks, masks and history; the object itself stays."""
        with self._guard:
            self._state.reset(self._obj(obj))

    def new_object(self) -> int:
        """Begin another object and return its id; from now on `obj=None` means this one."""
        with self._guard:
            return self._state.new_object()

    # -- what there is ---------------------------------------------------------------------

    @property
    def id(self) -> str:
        """What a server's log calls this session."""
        return self._state.id

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
        """The answer to the latest click, with timings and all else that it asked for."""
        return self._last_reply

    @property
    def last_encode(self) -> EncodeReply | None:
        """The answer when the image was sent ahead of its clicks; None when it was not.

        An image that went with a click has its times in `last_reply`.
        """
        return self._last_encode

    def _obj(self, obj: int | None) -> int:
        return self._state.objects[-1] if obj is None else obj
