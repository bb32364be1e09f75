"""The files that the page saves of one image: mask picture, COCO JSON, cut-out.

The page keeps the masks, so it sends them, and for a cut-out also the image file. All images
together are in `archive.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ois_cli.clicking import MAX_OBJECTS, label_image, object_box
from ois_cli.demo.gateway.coco import CocoDocument, NamedObject, read_classes, read_objects
from ois_cli.demo.gateway.frames import read_frame
from ois_cli.demo.gateway.masks import read_mask
from ois_cli.demo.gateway.pictures import read_upload
from ois_cli.drawing.pictures import mask_bytes, picture_bytes
from ois_client.contract.errors import InvalidInput

#: Object number and (H, W) uint8 mask, decoded one at a time: 255 masks would not fit in memory.
Masks = Iterator[tuple[int, NDArray[np.uint8]]]

_LONGEST_NAME = 200


def result_file(data: bytes) -> tuple[bytes, str]:
    """Make the file that a frame of the page asks for. Returns its bytes and media type.

    head: kind ("mask", "coco" or "cutout"); name, of the image file; objects, a list of
    {name, label}; classes, a list of names. parts: mask0, mask1, ... as PNG, one per object, all
    of one size; image, for a cut-out. Raises `InvalidInput` and its subclasses.
    """
    head, parts = read_frame(data)
    kind, name = head.get("kind"), head.get("name")
    write = _KINDS.get(kind) if isinstance(kind, str) else None
    if write is None:
        raise InvalidInput(f"got the kind {kind!r}; expected one of {[*_KINDS]}")
    if not isinstance(name, str):
        raise InvalidInput("got no name; expected the file name of the image")
    objects = read_objects(head.get("objects"))
    if not 1 <= len(objects) <= MAX_OBJECTS:
        raise InvalidInput(f"got {len(objects)} objects; expected 1 to {MAX_OBJECTS}")
    request = _Request(name[:_LONGEST_NAME], objects, read_classes(head), parts)
    return write(request.masks(), request)


@dataclass(frozen=True, slots=True)
class _Request:
    name: str
    objects: list[NamedObject]
    classes: list[str]
    parts: dict[str, bytes]

    def masks(self) -> Masks:
        size: tuple[int, int] | None = None
        for number in range(1, len(self.objects) + 1):
            data = self.parts.get(f"mask{number - 1}")
            if data is None:
                raise InvalidInput(
                    f"got no mask of object {number}; expected {len(self.objects)} masks"
                )
            mask = read_mask(data, size)
            size = mask.shape[1], mask.shape[0]
            yield number, mask


def _mask_picture(masks: Masks, request: _Request) -> tuple[bytes, str]:
    """255 = object, or k = object k if there are several, as in `ois segment --out`."""
    labels = label_image(masks)
    return mask_bytes(labels, Path("mask.png"), several=len(request.objects) > 1), "image/png"


def _coco(masks: Masks, request: _Request) -> tuple[bytes, str]:
    document = CocoDocument(request.classes)
    for number, mask in masks:
        if number == 1:
            height, width = mask.shape
            document.add_image(request.name, width, height)
        document.add_object(mask, request.objects[number - 1])
    return document.to_json(), "application/json"


def _cutout(masks: Masks, request: _Request) -> tuple[bytes, str]:
    """The pixels of all objects on a transparent background, cropped to the objects, RGBA PNG."""
    if "image" not in request.parts:
        raise InvalidInput("got no image for the cut-out; expected the image file in the request")
    inside = label_image(masks) > 0
    pixels = read_upload(request.parts["image"]).pixels()
    if inside.shape != pixels.shape[:2]:
        raise InvalidInput(
            f"got masks of {inside.shape[::-1]} pixels; expected {pixels.shape[1::-1]}, the size "
            "of the image"
        )
    edges = object_box(inside.astype(np.uint8))
    if edges is None:
        raise InvalidInput("got empty masks; expected an object to cut out. Click on it first")
    x0, y0, x1, y1 = edges
    part = np.s_[y0 : y1 + 1, x0 : x1 + 1]
    alpha = np.where(inside[part], 255, 0).astype(np.uint8)
    return picture_bytes(np.dstack((pixels[part], alpha)), Path("cutout.png")), "image/png"


_KINDS: dict[str, Callable[[Masks, _Request], tuple[bytes, str]]] = {
    "mask": _mask_picture,
    "coco": _coco,
    "cutout": _cutout,
}
