"""`--point`: which object, where, and whether to add or to remove."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidClick

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
