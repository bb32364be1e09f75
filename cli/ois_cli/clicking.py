"""Clicks on the objects of one image: parsed, checked and applied; and what their masks cover."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, check_count
from ois_client.contract.errors import InvalidClick, InvalidInput
from ois_client.contract.images import Picture
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session

#: Objects per request; servers accept up to 32.
OBJECTS_AT_ONCE = 16

#: A label image has 8 bits, and 0 is its background.
MAX_OBJECTS = 255

_OBJECT = re.compile(r"\s*(\d+)\s*:(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ObjectClick:
    """One click on one object. number: the object's number, from 1."""

    number: int
    click: Click

    @classmethod
    def parse(cls, text: str) -> ObjectClick:
        """Parse the value of `--point`.

        `"512,300"` adds to object 1, `"80,40,-"` removes from it, `"2:512,300"` adds to object 2.
        Raises `InvalidClick` if the text has another form or the number is not 1 to 255.
        """
        match = _OBJECT.fullmatch(text)
        if match is None:
            return cls(1, Click.parse(text))
        number = int(match[1])
        if not 1 <= number <= MAX_OBJECTS:
            raise InvalidClick(
                f"got the object number {number} in {text!r}; expected 1 to {MAX_OBJECTS}"
            )
        return cls(number, Click.parse(match[2]))


@dataclass(frozen=True, slots=True, eq=False)
class ClickResult:
    """The result of one click.

    mask: (H, W) uint8, 1 = object, of the clicked object. timings_ms: wall time per stage.
    depth: (h, w) float32 at network size, near 0 and far 1; None unless it was requested.
    """

    clicked: ObjectClick
    mask: NDArray[np.uint8]
    timings_ms: dict[str, float]
    depth: NDArray[np.float32] | None


def clicks_by_object(clicks: Sequence[ObjectClick]) -> dict[int, tuple[Click, ...]]:
    """Return the clicks per object number, both in the given order."""
    found: dict[int, tuple[Click, ...]] = {}
    for one in clicks:
        found[one.number] = (*found.get(one.number, ()), one.click)
    return found


def check_clicks(clicks: Sequence[ObjectClick], picture: Picture) -> None:
    """Check all clicks before time is spent on loading engines and encoding.

    Raises `InvalidInput` if there is no click, `InvalidClick` if one is outside the picture, and
    `TooManyClicks`.
    """
    if not clicks:
        raise InvalidInput("got no click; expected at least one, for example --point 512,300")
    for on_object in clicks_by_object(clicks).values():
        check_count(on_object)
        for click in on_object:
            click.check(picture.width, picture.height)


def apply_clicks(
    session: Session, clicks: Sequence[ObjectClick], *, want_depth: bool = False
) -> Iterator[ClickResult]:
    """Reset the session's objects, apply the clicks in order and yield one result per click.

    With `want_depth`, the last result has the depth. Raises what `Session.click` raises.
    """
    numbers = list(clicks_by_object(clicks))
    while len(session.objects) < len(numbers):
        session.new_object()
    objects = dict(zip(numbers, session.objects, strict=False))
    for obj in objects.values():
        session.reset(obj)
    for index, one in enumerate(clicks):
        click, last = one.click, index == len(clicks) - 1
        mask = session.click(
            click.x,
            click.y,
            click.positive,
            objects[one.number],
            want_depth=want_depth and last,
        )
        reply = session.last_reply
        timings_ms = dict(reply.timings_ms) if reply else {}
        yield ClickResult(one, mask, timings_ms, reply.depth if reply else None)


def fits_one_request(objects: Sequence[Sequence[Click]]) -> bool:
    """Whether one request gives the masks that a session gives after all clicks of the objects.

    Not if an object has several clicks: in a session each refines the mask of those before it.
    """
    return len(objects) <= OBJECTS_AT_ONCE and all(len(clicks) == 1 for clicks in objects)


def click_once(
    client: Client, picture: Picture, clicks: Sequence[ObjectClick]
) -> Iterator[ClickResult]:
    """`apply_clicks` in one request without a session, for clicks that `fits_one_request`."""
    started = time.perf_counter()
    reply = client.segment(picture.data, [[one.click] for one in clicks])
    timings_ms = {**reply.timings_ms, "total": (time.perf_counter() - started) * 1e3}
    for one, mask in zip(clicks, reply.masks, strict=True):
        yield ClickResult(one, mask, timings_ms, None)


def label_image(masks: Iterable[tuple[int, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Combine masks into a label image. Where objects overlap, the last one wins.

    masks: object number and (H, W) uint8, 1 = object. Returns (H, W) uint8, 0 = background and
    k = object k. Raises `InvalidInput` if there is no mask.
    """
    labels: NDArray[np.uint8] | None = None
    for number, mask in masks:
        if labels is None:
            labels = np.zeros_like(mask)
        labels[mask == 1] = number
    if labels is None:
        raise InvalidInput("got no mask; expected at least one object")
    return labels


def object_box(mask: NDArray[np.uint8]) -> list[int] | None:
    """Return the box [x0, y0, x1, y1] of the object in pixels, inclusive; None if it is empty.

    mask: (H, W) uint8, 1 = object.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]
