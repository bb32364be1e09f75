"""Clicks on objects, and the arrays they become.

A click is (x, y) in pixels of the original image after EXIF orientation. Pixel centres are at
integers, so `0 <= x <= W-1` and `0 <= y <= H-1`; fractions are allowed.

The network has 48 slots per object: the first 24 for positive clicks, the last 24 for
negative ones (paper §4.1). Arrays use the labels 1 (positive), 0 (negative), -1 (empty slot).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidClick, InvalidInput, TooManyClicks

if TYPE_CHECKING:
    from ois_client.contract.geometry import Geometry

SLOTS_PER_SIGN = 24
SLOTS = 2 * SLOTS_PER_SIGN

POSITIVE = 1
NEGATIVE = 0
EMPTY = -1

#: The names of the arrays, in order. Exported graphs use them for their inputs.
PROMPT_NAMES = ("points", "labels", "coverage", "has_previous")

A = TypeVar("A")
B = TypeVar("B")

_NO_OBJECT = "got no object; expected the clicks of at least one object"
_NO_CLICK = "object {row} has no click; expected at least one click each"


@dataclass(frozen=True, slots=True)
class Click:
    """One click at (x, y) in pixels of the original image. A positive click adds to the object,
    a negative one removes from it."""

    x: float
    y: float
    positive: bool = True

    @classmethod
    def parse(cls, text: str) -> Click:
        """Read a click from text: `"512,300"` and `"512,300,+"` are positive, `"80,40,-"` negative.

        Raises `InvalidClick` for any other text.
        """
        parts = [part.strip() for part in text.split(",")]
        try:
            if len(parts) not in (2, 3):
                raise ValueError
            x, y = float(parts[0]), float(parts[1])
            positive = {"+": True, "-": False, "1": True, "0": False}[
                parts[2] if len(parts) == 3 else "+"
            ]
        except (ValueError, KeyError):
            raise InvalidClick(
                f"got the point {text!r}; expected 'x,y' or 'x,y,+' to add and 'x,y,-' to "
                "remove, for example 512,300,-"
            ) from None
        return cls(x, y, positive)

    @classmethod
    def on_canvas(cls, x: float, y: float, positive: bool, *, width: int, height: int) -> Click:
        """A click from the coordinates of a canvas that shows a `width` x `height` image.

        On a canvas, pixel i covers i to i + 1, so 0 <= x <= W and x is larger by half a pixel.
        Raises `InvalidClick` if the point is outside the canvas.
        """
        sides = ((x, width), (y, height))
        if not all(isinstance(at, int | float) and 0 <= at <= side for at, side in sides):
            raise InvalidClick(
                f"got a click at ({x!r}, {y!r}) on the canvas of a {width}x{height} image; "
                f"expected 0 <= x <= {width} and 0 <= y <= {height}"
            )
        # Outside the outermost pixel centres the canvas goes on for half a pixel.
        at_x, at_y = (min(max(at - 0.5, 0.0), side - 1.0) for at, side in sides)
        return cls(at_x, at_y, positive)

    def check(self, width: int, height: int) -> None:
        """Raise `InvalidClick` unless the click lies on a pixel of a `width` x `height` image."""
        # 0 and 1 are as good; -1 and 2 would be counted wrongly.
        if not isinstance(self.positive, int | np.bool_ | np.integer) or self.positive not in (
            0,
            1,
        ):
            raise InvalidClick(
                f"got positive={self.positive!r}; expected True to add to the object or False to "
                "remove from it"
            )
        try:
            finite = all(
                isinstance(at, int | float | np.number) and math.isfinite(at)
                for at in (self.x, self.y)
            )
        except (TypeError, OverflowError):  # complex, or an int that no float can hold
            finite = False
        if not finite:
            raise InvalidClick(
                f"got a click at ({self.x!r:.40}, {self.y!r:.40}); coordinates must be finite "
                "numbers"
            )
        if not (0 <= self.x <= width - 1 and 0 <= self.y <= height - 1):
            raise InvalidClick(
                f"got a click at ({self.x:g}, {self.y:g}), outside the {width}x{height} image; "
                f"expected 0 <= x <= {width - 1} and 0 <= y <= {height - 1} "
                "(pixels after EXIF orientation)"
            )


def check_count(clicks: Sequence[Click]) -> None:
    """Raise `TooManyClicks` if one object has more clicks of one sign than there are slots."""
    positive = sum(click.positive for click in clicks)
    _check_sign(positive, "positive")
    _check_sign(len(clicks) - positive, "negative")


def _check_sign(count: int, sign: str) -> None:
    if count > SLOTS_PER_SIGN:
        raise TooManyClicks(
            f"got {count} {sign} clicks on one object; the network has {SLOTS_PER_SIGN} "
            f"slots for {sign} clicks. Undo one, or start a new object"
        )


def pack_clicks(
    objects: Sequence[Sequence[Click]], width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Clicks of N objects -> points (N, P, 2) in image pixels and labels (N, P) for the wire.

    P is the largest number of clicks on one object. Raises `InvalidClick` or `TooManyClicks` if
    any click is wrong, and `InvalidInput` if there is no object or an object has no click.
    """
    if not objects:
        raise InvalidInput(_NO_OBJECT)
    for row, clicks in enumerate(objects):
        if not clicks:
            raise InvalidInput(_NO_CLICK.format(row=row))
        for click in clicks:
            if not isinstance(click, Click):
                raise InvalidClick(f"got {click!r:.100} as a click; expected a Click")
            click.check(width, height)
        check_count(clicks)
    most = max(len(clicks) for clicks in objects)
    points = np.zeros((len(objects), most, 2), dtype=np.float32)
    labels = np.full((len(objects), most), EMPTY, dtype=np.int32)
    for row, clicks in enumerate(objects):
        for column, click in enumerate(clicks):
            points[row, column] = click.x, click.y
            labels[row, column] = POSITIVE if click.positive else NEGATIVE
    return points, labels


def unpack_clicks(
    points: NDArray[np.generic], labels: NDArray[np.generic], width: int, height: int
) -> list[list[Click]]:
    """The inverse of `pack_clicks`, with all its checks, for data from outside.

    points: (N, P, 2), (x, y) in image pixels; labels: (N, P) with 1, 0, or -1 for "no click".
    Raises `InvalidClick`, `TooManyClicks` or `InvalidInput` in the same cases as `pack_clicks`.
    """
    given, signs = _checked_arrays(points, labels, width, height)
    return [
        [
            Click(float(x), float(y), bool(label == POSITIVE))
            for (x, y), label in zip(row_points, row_labels, strict=True)
            if label != EMPTY
        ]
        for row_points, row_labels in zip(given, signs, strict=True)
    ]


def place_clicks(
    points: NDArray[np.generic], labels: NDArray[np.generic], geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Move clicks from the wire's arrays into the decoder's 48 slots.

    points: (N, P, 2), (x, y) in image pixels; labels: (N, P). Returns points (N, 48, 2) in
    network pixels and labels (N, 48): the result of `fill_slots` of `unpack_clicks`, computed on
    whole arrays because a server does this for every click. Raises what `unpack_clicks` raises.
    """
    given, signs = _checked_arrays(points, labels, geometry.width, geometry.height)
    placed = np.zeros((len(signs), SLOTS, 2), dtype=np.float32)
    placed_labels = np.full((len(signs), SLOTS), EMPTY, dtype=np.int32)
    for label, first in ((POSITIVE, 0), (NEGATIVE, SLOTS_PER_SIGN)):
        rows, columns = np.nonzero(signs == label)
        slots = first + np.cumsum(signs == label, axis=1)[rows, columns] - 1
        placed[rows, slots] = geometry.to_network(given[rows, columns])
        placed_labels[rows, slots] = label
    return placed, placed_labels


def _checked_arrays(
    points: NDArray[Any], labels: NDArray[Any], width: int, height: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Apply every check of `pack_clicks` to points (N, P, 2) and labels (N, P) from outside."""
    points = np.asarray(points)
    labels = np.asarray(labels)
    if points.ndim != 3 or points.shape[-1] != 2 or labels.shape != points.shape[:2]:
        raise InvalidClick(
            f"got points of shape {points.shape} and labels of shape {labels.shape}; expected "
            "points (N, P, 2) and labels (N, P)"
        )
    for name, array in (("points", points), ("labels", labels)):
        if array.dtype.kind not in "iuf":
            raise InvalidClick(f"got {name} of type {array.dtype}; expected numbers")
    if not np.isin(labels, (POSITIVE, NEGATIVE, EMPTY)).all():
        bad = labels[~np.isin(labels, (POSITIVE, NEGATIVE, EMPTY))].ravel()[0]
        raise InvalidClick(
            f"got the label {bad}; expected 1 (positive), 0 (negative) or -1 (empty slot). "
            "Boxes are not prompts of this network"
        )
    if not len(labels):
        raise InvalidInput(_NO_OBJECT)
    given = labels != EMPTY
    without = np.flatnonzero(~given.any(axis=1))
    if without.size:
        raise InvalidInput(_NO_CLICK.format(row=without[0]))
    for label, sign in ((POSITIVE, "positive"), (NEGATIVE, "negative")):
        _check_sign(int((labels == label).sum(axis=1).max()), sign)
    # NaN is not inside either. `Click.check` writes the message.
    inside = (points >= 0) & (points <= (width - 1, height - 1))
    for x, y in points[given & ~inside.all(axis=2)]:
        Click(float(x), float(y)).check(width, height)
    return points, labels


def fill_slots(
    objects: Sequence[Sequence[Click]], geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Checked clicks of N objects -> points (N, 48, 2) in network pixels and labels (N, 48).

    This is the decoder's form: slots 0..23 are positive, 24..47 negative, each in click order.
    Raises `TooManyClicks`.
    """
    points = np.zeros((len(objects), SLOTS, 2), dtype=np.float32)
    labels = np.full((len(objects), SLOTS), EMPTY, dtype=np.int32)
    for row, clicks in enumerate(objects):
        check_count(clicks)
        next_slot = {True: 0, False: SLOTS_PER_SIGN}
        for click in clicks:
            slot = next_slot[click.positive]
            next_slot[click.positive] += 1
            points[row, slot] = geometry.to_network(np.array([click.x, click.y]))
            labels[row, slot] = POSITIVE if click.positive else NEGATIVE
    return points, labels


@dataclass(frozen=True, slots=True, eq=False)
class Prompts(Generic[A]):
    """The prompt of one decoder call: the clicks on N objects and their previous masks.

    Four arrays of one type: NumPy arrays (`Prompts[NDArray]`) or tensors (`Prompts[Tensor]`).

    points: (N, 48, 2) float32, (x, y) in network pixels.
    labels: (N, 48) int32; 1 positive, 0 negative, -1 empty slot.
    coverage: (N, s gh, s gw) uint8, how much of each cell the previous mask covers (`coverage.py`).
    has_previous: (N) bool; where it is False, coverage is ignored.
    """

    points: A
    labels: A
    coverage: A
    has_previous: A

    def __iter__(self) -> Iterator[A]:
        """The arrays in the order of `PROMPT_NAMES`, for calls with four arguments."""
        return iter((self.points, self.labels, self.coverage, self.has_previous))

    def named(self) -> dict[str, A]:
        """The arrays by name, in the order of `PROMPT_NAMES`."""
        return dict(zip(PROMPT_NAMES, self, strict=True))

    def map(self, function: Callable[[A], B]) -> Prompts[B]:
        """A new prompt with `function` applied to each array."""
        return Prompts(*map(function, self))
