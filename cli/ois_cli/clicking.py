"""Clicks of one image, one after another, each seeing the mask that the ones before made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, check_count
from ois_client.contract.errors import InvalidClick, InvalidInput
from ois_client.contract.images import Picture
from ois_client.sessions.session import Session

#: A label image is 8-bit, and 0 is its background.
MAX_OBJECTS = 255

_OBJECT = re.compile(r"\s*(\d+)\s*:(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One click on one object. number: 1, 2, ... as the user counts them."""

    number: int
    click: Click

    @classmethod
    def parse(cls, text: str) -> Prompt:
        """`"512,300"` clicks object 1, `"80,40,-"` removes, `"2:512,300"` clicks object 2.

        Raises `InvalidClick`.
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
class Answer:
    """The state after one click.

    mask: (H, W) uint8, 1 = object, of the clicked object. timings_ms: wall time by stage.
    depth: (h, w) float32 at network size, near 0 and far 1; None unless it was wanted.
    """

    prompt: Prompt
    mask: NDArray[np.uint8]
    timings_ms: dict[str, float]
    depth: NDArray[np.float32] | None


def clicks_by_object(prompts: Sequence[Prompt]) -> dict[int, tuple[Click, ...]]:
    """Object number -> its clicks, both in the order given."""
    found: dict[int, tuple[Click, ...]] = {}
    for prompt in prompts:
        found[prompt.number] = (*found.get(prompt.number, ()), prompt.click)
    return found


def check_prompts(prompts: Sequence[Prompt], picture: Picture) -> None:
    """Raise for a wrong click before seconds go into engines and encoding.

    `InvalidInput` without a click, `InvalidClick` outside the picture, `TooManyClicks`.
    """
    if not prompts:
        raise InvalidInput("got no click; expected at least one, for example --point 512,300")
    for clicks in clicks_by_object(prompts).values():
        check_count(clicks)
        for click in clicks:
            click.check(picture.width, picture.height)


def apply_clicks(
    session: Session, prompts: Sequence[Prompt], *, want_depth: bool = False
) -> Iterator[Answer]:
    """Forget what the session's objects hold, then click; one `Answer` a click.

    The last answer carries the depth when it is wanted. Raises what `Session.click` raises.
    """
    numbers = list(clicks_by_object(prompts))
    while len(session.objects) < len(numbers):
        session.new_object()
    objects = dict(zip(numbers, session.objects, strict=False))
    for obj in objects.values():
        session.reset(obj)
    for index, prompt in enumerate(prompts):
        click, last = prompt.click, index == len(prompts) - 1
        mask = session.click(
            click.x,
            click.y,
            click.positive,
            objects[prompt.number],
            want_depth=want_depth and last,
        )
        reply = session.last_reply
        timings_ms = dict(reply.timings_ms) if reply else {}
        yield Answer(prompt, mask, timings_ms, reply.depth if reply else None)


def label_image(masks: dict[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Object number -> (H, W) mask, as one (H, W) uint8: 0 background, k object k.

    Where objects overlap, the higher number wins. Raises `InvalidInput` without an object.
    """
    if not masks:
        raise InvalidInput("got no mask; expected at least one object")
    labels = np.zeros_like(next(iter(masks.values())))
    for number in sorted(masks):
        labels[masks[number] == 1] = number
    return labels
