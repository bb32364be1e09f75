"""Zooming in: later clicks on a small object are answered in a window of the image around it.

The network sees every image at the same size, so a small object has few of its pixels. From the
fourth click on, the object's mask says where the object is. The window around it is then an image
of its own: cut out here, encoded once, and clicked on like any other, with the mask so far as the
previous mask. Engines, servers and the wire contract know nothing of it. The idea is that of f-BRS
and RITM ("zoom-in"); when to zoom and how far was chosen on photographs
(`ois bench quality --zoom`, docs/architecture.md).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import Picture, load_image
from ois_client.contract.transport import Answer, ClickReply

#: The click from which on an object gets a window. Earlier masks are too often of another thing.
FIRST_CLICK = 4
#: The window's sides relative to those of the mask and the clicks. The network needs surroundings.
MARGIN = 2.0
#: Pixels of a window's side, at least.
LEAST = 160
#: A window's largest share of the image. Above that, a window shows hardly more detail.
MOST = 0.4
#: The longer side of a window relative to the shorter one, at most.
ASPECT = 2.0
#: A window is kept while mask and clicks lie in it with this margin ...
KEPT_MARGIN = 1.1
#: ... and while its area is at most so many times that of a new one.
KEPT_AREA = 2.0

#: Windows of a session whose pixels are kept.
_VIEWS = 4


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image, in pixels; right and bottom are the first outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)

    def contains(self, other: Window) -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


def choose_window(
    mask: NDArray[np.uint8], clicks: Sequence[Click], present: Window | None
) -> Window | None:
    """The window for the next answer, or None for the whole image. It contains mask and clicks.

    mask: (H, W) 0/1, before the newest click. clicks: all, the newest included. present: the
    window of that mask.
    """
    if len(clicks) < FIRST_CLICK or not mask.any():
        return None
    new = _around(mask, clicks, MARGIN, LEAST)
    if new.area > MOST * mask.size:
        return None
    if (
        present is not None
        and present.area <= KEPT_AREA * new.area
        and present.contains(_around(mask, clicks, KEPT_MARGIN, 1))
    ):
        return present
    return new


def _around(
    mask: NDArray[np.uint8], clicks: Sequence[Click], margin: float, least: float
) -> Window:
    """The box of mask and clicks, enlarged about its middle, inside the image."""
    height, width = mask.shape
    x0, x1 = _span(mask.any(axis=0), [click.x for click in clicks])
    y0, y1 = _span(mask.any(axis=1), [click.y for click in clicks])
    across, down = max((x1 - x0) * margin, least), max((y1 - y0) * margin, least)
    across, down = max(across, down / ASPECT), max(down, across / ASPECT)
    left, right = _clipped((x0 + x1) / 2, across, width)
    top, bottom = _clipped((y0 + y1) / 2, down, height)
    return Window(left, top, right, bottom)


def _span(covered: NDArray[np.bool_], places: Sequence[float]) -> tuple[float, float]:
    """From the first to behind the last pixel that is covered or clicked."""
    (found,) = covered.nonzero()
    first, last = min(found[0], *places), max(found[-1], *places)
    return float(first), float(last) + 1


def _clipped(middle: float, size: float, end: int) -> tuple[int, int]:
    return max(0, int(np.floor(middle - size / 2))), min(end, int(np.ceil(middle + size / 2)))


@dataclass(slots=True, eq=False)
class View:
    """A window as an image of its own. sent: whether the server has had it."""

    window: Window
    picture: Picture
    geometry: Geometry
    sent: bool = False

    def clicks(self, clicks: Sequence[Click]) -> tuple[Click, ...]:
        """The same clicks in pixels of the window."""
        left, top = self.window.left, self.window.top
        return tuple(Click(click.x - left, click.y - top, click.positive) for click in clicks)

    def coverage(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """mask: (H, W) of the image -> coverage of its part in the window."""
        return coverage_of_mask(mask[self._slices], self.geometry)

    def whole(self, reply: ClickReply, geometry: Geometry) -> ClickReply:
        """A reply about the window, of one object -> about the image with this geometry.

        Outside the window is background: the window contains all of the previous mask.
        """
        mask = np.zeros((geometry.height, geometry.width), np.uint8)
        mask[self._slices] = reply.masks[0]
        coverage = reply.coverage
        if reply.answer is Answer.FULL:
            coverage = coverage_of_mask(mask, geometry)[None]
        return replace(reply, masks=mask[None], coverage=coverage, packed=None)

    @property
    def _slices(self) -> tuple[slice, slice]:
        window = self.window
        return slice(window.top, window.bottom), slice(window.left, window.right)


class Zoom:
    """The windows of one picture. Thread-safe: a click of an `AsyncSession` that was cancelled can
    still be cutting its window."""

    def __init__(self, picture: Picture, fit: Callable[[int, int], Geometry]) -> None:
        """fit: the geometry of an image of a width and a height."""
        self._picture, self._fit = picture, fit
        self._lock = threading.Lock()
        self._views: OrderedDict[Window, View] = OrderedDict()

    def view(
        self, mask: NDArray[np.uint8], clicks: Sequence[Click], present: Window | None
    ) -> View | None:
        """Arguments and None as for `choose_window`.

        Raises `InvalidImage` if the picture's pixels cannot be decoded.
        """
        window = choose_window(mask, clicks, present)
        if window is None:
            return None
        with self._lock:
            view = self._views.pop(window, None) or self._cut(window)
            self._views[window] = view
            while len(self._views) > _VIEWS:
                self._views.popitem(last=False)
            return view

    def _cut(self, window: Window) -> View:
        pixels = self._picture.pixels()
        part = pixels[window.top : window.bottom, window.left : window.right]
        picture = load_image(np.ascontiguousarray(part))
        return View(window, picture, self._fit(picture.width, picture.height))
