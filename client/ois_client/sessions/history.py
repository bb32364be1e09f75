"""The state of a session, without I/O.

    History        one object: immutable steps and a cursor; undo and redo move the cursor
    SessionState   the objects of one image; `begin` makes a request, `commit` applies the reply

Nothing changes between `begin` and `commit`, so a click that fails or is cancelled in between has
no effect. Undo and redo need no server, because a step holds everything that a click needs.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import check_mask, pack_mask, unpack_mask
from ois_client.contract.transport import ClickReply, ClickRequest, Region
from ois_client.sessions.zoom import View, Window, Zoom


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One object after a click: all its clicks, its mask as `pack_mask` packs it, its coverage.

    `packed` and `coverage` are None before the first mask. `window` is the part of the image in
    which the click was answered; None is all of it.
    """

    clicks: tuple[Click, ...] = ()
    packed: bytes | None = field(default=None, repr=False)
    #: (gh, gw) uint8
    coverage: NDArray[np.uint8] | None = field(default=None, repr=False)
    window: Window | None = None


EMPTY_STEP = Step()


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """An object's steps, beginning with `EMPTY_STEP`, and the index of the current one."""

    steps: tuple[Step, ...] = (EMPTY_STEP,)
    cursor: int = 0

    @property
    def now(self) -> Step:
        return self.steps[self.cursor]

    def push(self, step: Step) -> History:
        """Add a step after the current one. Steps that were undone are dropped."""
        return History((*self.steps[: self.cursor + 1], step), self.cursor + 1)

    def undo(self) -> History:
        """One step back, if there is one."""
        return replace(self, cursor=max(0, self.cursor - 1))

    def redo(self) -> History:
        """One step forward, if there is one."""
        return replace(self, cursor=min(len(self.steps) - 1, self.cursor + 1))


@dataclass(frozen=True, slots=True)
class Wants:
    """The optional parts of a reply to request, see `ClickReply`, and `ClickRequest.region`."""

    depth: bool = False
    logits: bool = False
    order: bool = False
    region: str | None = None

    @property
    def maps(self) -> bool:
        """Whether arrays at the network's size are requested."""
        return self.depth or self.logits or self.order


MASKS_ONLY = Wants()


@dataclass(frozen=True, slots=True, eq=False)
class PendingClick:
    """A request, its objects, their clicks, and their histories when the request was made.

    view: the window that the request is about; None if it is about the whole image.
    """

    request: ClickRequest
    objects: tuple[int, ...]
    clicks: tuple[tuple[Click, ...], ...]
    before: tuple[History, ...]
    view: View | None = None


class SessionState:
    """The objects of one image. Their ids are 0, 1, 2, ...; object 0 always exists.

    Not thread-safe: the session holds a lock from `begin` to `commit`.
    """

    def __init__(
        self, digest: str, geometry: Geometry, model_sha256: str = "", zoom: Zoom | None = None
    ) -> None:
        """model_sha256: the model that must give all replies; "" allows any. zoom: makes the
        windows for later clicks; None: all clicks are about the whole image."""
        self.digest = digest
        self.geometry = geometry
        self.model_sha256 = model_sha256
        self.id = secrets.token_hex(6)
        self._histories: dict[int, History] = {0: History()}
        self._zoom = zoom

    @property
    def objects(self) -> tuple[int, ...]:
        return tuple(self._histories)

    def history(self, obj: int) -> History:
        """The history of an object. Raises `InvalidInput` if there is no such object."""
        found = self._histories.get(obj) if isinstance(obj, Hashable) else None
        if found is None:
            raise InvalidInput(
                f"got the object {obj!r}; expected one of {list(self._histories)}. "
                "Add objects with new_object()"
            )
        return found

    def new_object(self) -> int:
        obj = len(self._histories)
        self._histories[obj] = History()
        return obj

    def mask(self, obj: int) -> NDArray[np.uint8]:
        """(H, W) uint8 0/1; all zero before the first click."""
        packed = self.history(obj).now.packed
        size = self.geometry.width, self.geometry.height
        if packed is None:
            return np.zeros(size[::-1], dtype=np.uint8)
        return unpack_mask(packed, *size)

    def undo(self, obj: int) -> None:
        self._histories[obj] = self.history(obj).undo()

    def redo(self, obj: int) -> None:
        self._histories[obj] = self.history(obj).redo()

    def reset(self, obj: int) -> None:
        """Clear the object's clicks, masks and history. The object itself remains."""
        self.history(obj)
        self._histories[obj] = History()

    def start_from(self, obj: int, mask: NDArray[np.generic]) -> None:
        """Add a step with `mask`, (H, W), 1 = object, and the present clicks.

        Raises `InvalidInput` if it is not a mask of this image.
        """
        history = self.history(obj)
        mask = check_mask(mask)
        coverage = coverage_of_mask(mask, self.geometry)
        self._histories[obj] = history.push(Step(history.now.clicks, pack_mask(mask), coverage))

    def begin(self, new: Mapping[int, Click], wants: Wants = MASKS_ONLY) -> PendingClick:
        """Make a request for one new click on each of the given objects. Changes nothing.

        With zoom, a click on one object can be about a window. It is not if depth, logits or order
        are requested, which are of the whole image. Raises `InvalidClick`, `TooManyClicks`,
        `InvalidInput` if an object does not exist, and `InvalidImage` if the picture cannot be cut.
        """
        before = tuple(self.history(obj) for obj in new)
        clicks = tuple(
            (*history.now.clicks, click)
            for history, click in zip(before, new.values(), strict=True)
        )
        points, labels = pack_clicks(clicks, self.geometry.width, self.geometry.height)
        empty = np.zeros(self.geometry.coverage_shape, dtype=np.uint8)
        previous = [history.now.coverage for history in before]
        digest, view = self.digest, None
        if self._zoom is not None and len(new) == 1 and not wants.maps:
            (obj,) = new
            mask = self.mask(obj)
            view = self._zoom.view(mask, clicks[0], before[0].now.window)
            if view is not None:
                digest, previous = view.picture.digest, [view.coverage(mask)]
                points, labels = pack_clicks(
                    [view.clicks(clicks[0])], view.geometry.width, view.geometry.height
                )
        request = ClickRequest(
            digest,
            points,
            labels,
            np.stack([empty if coverage is None else coverage for coverage in previous]),
            np.array([coverage is not None for coverage in previous]),
            want_depth=wants.depth,
            want_logits=wants.logits,
            want_order=wants.order,
            session=self.id,
            region=None if wants.region is None else Region.parse(wants.region),
        )
        return PendingClick(request, tuple(new), clicks, before, view)

    def commit(self, pending: PendingClick, reply: ClickReply) -> ClickReply:
        """Add the reply's masks as new steps to all objects of the request. An error changes none.

        Returns the reply about the whole image, as the caller gets it.

        Raises `IncompatibleServer` if the reply's arrays do not fit or come from another model,
        and `InvalidInput` if an object has changed since `begin`.
        """
        self.check_model(reply.model_sha256)
        view = pending.view
        self._check_reply(reply, len(pending.objects), self._frame(view))
        window = None
        if view is not None:
            view.sent, window = True, view.window
            reply = view.whole(reply, self.geometry)
        if tuple(map(self.history, pending.objects)) != pending.before:
            raise InvalidInput(
                "an object was changed while its click was in progress, so the click was dropped. "
                "Repeat it"
            )
        packed = reply.packed or [pack_mask(mask) for mask in reply.masks]
        after = {
            obj: before.push(Step(clicks, bits, coverage.copy(), window))
            for obj, before, clicks, bits, coverage in zip(
                pending.objects,
                pending.before,
                pending.clicks,
                packed,
                reply.coverage,
                strict=True,
            )
        }
        self._histories.update(after)
        return reply

    def coarse(self, pending: PendingClick, reply: ClickReply) -> ClickReply:
        """The reply about the whole image. Raises `IncompatibleServer` unless it is the model's
        coarse answer to the request."""
        self.check_model(reply.model_sha256)
        view = pending.view
        frame = self._frame(view)
        shape = (len(pending.objects), frame.height, frame.width)
        _check_array("masks", reply.masks, shape)
        return reply if view is None else view.whole(reply, self.geometry)

    def check_model(self, model_sha256: str) -> None:
        """Raise `IncompatibleServer` if a reply came from another model than the session's."""
        if model_sha256 and self.model_sha256 and model_sha256 != self.model_sha256:
            raise IncompatibleServer(
                f"the server now runs the model {model_sha256[:12]}…, this session began with "
                f"{self.model_sha256[:12]}…; a mask of one model cannot be refined by another. The "
                "session keeps its masks and clicks; open the image again for further clicks"
            )

    def _frame(self, view: View | None) -> Geometry:
        """The geometry of what a request is about: the window, or the image."""
        return self.geometry if view is None else view.geometry

    def _check_reply(self, reply: ClickReply, count: int, fit: Geometry) -> None:
        _check_array("masks", reply.masks, (count, fit.height, fit.width))
        # A coarse answer has no coverage, so it is never taken for an object's mask.
        _check_array("coverage", reply.coverage, (count, *fit.coverage_shape))


def _check_array(name: str, array: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.uint8:
        raise IncompatibleServer(
            f"the server answered with {name} of shape {array.shape} and type {array.dtype}; "
            f"expected {shape} uint8. Install the same release of ois-deploy on both sides"
        )
