"""Zoom for the page: the windows of the images that it opened last (`ois_client.sessions.zoom`).

The page keeps an object's mask and window, and sends both with a click. The gateway has to cut the
window out of the image, so it remembers the last images. If it has forgotten one, it answers with
`UnknownImage`, and the page sends the image again, as for a server.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.demo.gateway.masks import read_mask
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput, UnknownImage
from ois_client.contract.images import Picture
from ois_client.contract.transport import ModelInfo
from ois_client.sessions.zoom import View, Window, Zoom

#: A window, and the coverage of the previous mask in it.
Seen = tuple[View, NDArray[np.uint8]]

#: Images that are remembered, as the files that they came in.
_IMAGES = 4


class Zooms:
    """The images that the page opened last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._zooms: dict[tuple[str, str], Zoom] = {}

    def add(self, picture: Picture) -> None:
        """Remember an image, and forget the one that was opened longest ago."""
        with self._lock:
            self._pictures[picture.digest] = picture
            self._pictures.move_to_end(picture.digest)
            while len(self._pictures) > _IMAGES:
                gone, _ = self._pictures.popitem(last=False)
                self._zooms = {key: zoom for key, zoom in self._zooms.items() if key[0] != gone}

    def view(
        self,
        digest: str,
        mask: bytes,
        clicks: Sequence[Click],
        present: Window | None,
        info: ModelInfo,
    ) -> Seen | None:
        """The window for a click and the coverage of the mask in it, or None for the whole image.

        mask: the object's mask before the click, as PNG. present: its window. Raises
        `UnknownImage` if the image is not remembered, and `InvalidInput` for a wrong mask.
        """
        with self._lock:
            picture = self._pictures.get(digest)
            if picture is None:
                raise UnknownImage(
                    f"the demo has no image {digest[:12]}… to zoom in on; open it again"
                )
            key = digest, info.model_sha256
            if key not in self._zooms:
                self._zooms[key] = Zoom(picture, info.fit)
            zoom = self._zooms[key]
        before = read_mask(mask, (picture.width, picture.height))
        view = zoom.view(before, clicks, present)
        return None if view is None else (view, view.coverage(before))


def read_window(value: Any, width: int, height: int) -> Window | None:
    """A window in a request about an image of this size, [left, top, right, bottom] or null.

    Raises `InvalidInput` if it is not a part of the image.
    """
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 4 and all(type(n) is int for n in value):
        window = Window(*value)
        inside = Window(0, 0, width, height).contains(window)
        if inside and window.left < window.right and window.top < window.bottom:
            return window
    raise InvalidInput(
        f"got window = {value!r}; expected null, or left, top, right and bottom in an image of "
        f"{width} x {height} pixels"
    )


def listed(view: View | None) -> list[int] | None:
    """The window of a response."""
    if view is None:
        return None
    return [view.window.left, view.window.top, view.window.right, view.window.bottom]
