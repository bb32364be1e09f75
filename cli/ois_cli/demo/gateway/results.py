"""The files that the page saves: mask picture, COCO JSON, cut-out.

The page keeps the masks, so it sends them, and for a cut-out also the image file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.clicking import MAX_OBJECTS, label_image, object_box
from ois_cli.demo.gateway.frames import read_frame
from ois_cli.demo.gateway.pictures import LIMITS, read_upload
from ois_cli.drawing.pictures import mask_bytes, picture_bytes
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import coco_of_mask, mask_of_png

#: Object number and (H, W) uint8 mask, decoded one at a time: 255 masks would not fit in memory.
Masks = Iterator[tuple[int, NDArray[np.uint8]]]

_LONGEST_NAME = 200
#: Most bytes of run lengths in a COCO document. Masks that are small as PNG can exceed it.
_LONGEST_COCO = 2**27
_PNG = b"\x89PNG\r\n\x1a\n"


def result_file(data: bytes) -> tuple[bytes, str]:
    """Make the file that a frame of the page asks for. Returns its bytes and media type.

    head: kind ("mask", "coco" or "cutout"); name, of the image file; objects, a list of names.
    parts: mask0, mask1, ... as PNG, one per object, all of one size; image, for a cut-out.
    Raises `InvalidInput` and its subclasses.
    """
    head, parts = read_frame(data)
    kind, name, names = head.get("kind"), head.get("name"), head.get("objects")
    write = _KINDS.get(kind) if isinstance(kind, str) else None
    if write is None:
        raise InvalidInput(f"got the kind {kind!r}; expected one of {[*_KINDS]}")
    if not isinstance(name, str) or not isinstance(names, list):
        raise InvalidInput(
            "got no name or no objects; expected the name of the image and the names of its objects"
        )
    if not 1 <= len(names) <= MAX_OBJECTS:
        raise InvalidInput(f"got {len(names)} objects; expected 1 to {MAX_OBJECTS}")
    masks = _masks(parts, len(names))
    return write(masks, [str(n)[:_LONGEST_NAME] for n in names], name[:_LONGEST_NAME], parts)


def _masks(parts: dict[str, bytes], count: int) -> Masks:
    size: tuple[int, int] | None = None
    for number in range(1, count + 1):
        data = parts.get(f"mask{number - 1}")
        if data is None:
            raise InvalidInput(f"got no mask of object {number}; expected {count} masks")
        _check_pixels(data)
        mask = mask_of_png(data, expected=size)
        size = mask.shape[1], mask.shape[0]
        yield number, mask


def _check_pixels(png: bytes) -> None:
    """Refuse a mask larger than any image of the page, before memory is allocated for it."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    if png.startswith(_PNG) and width * height > LIMITS.max_pixels:
        raise InvalidInput(
            f"got a mask of {width} x {height} pixels; expected at most {LIMITS.max_pixels} "
            "pixels, the demo's limit for images"
        )


def _mask_picture(masks: Masks, names: list[str], *_: Any) -> tuple[bytes, str]:
    """255 = object, or k = object k if there are several, as in `ois segment --out`."""
    labels = label_image(masks)
    return mask_bytes(labels, Path("mask.png"), several=len(names) > 1), "image/png"


def _coco(masks: Masks, names: list[str], name: str, _: Any) -> tuple[bytes, str]:
    """As in `ois annotate`. `ois_id` is the object's name on the page."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    total = 0
    for number, mask in masks:
        if not images:
            height, width = mask.shape
            images.append({"id": 1, "file_name": name, "width": width, "height": height})
        segmentation = coco_of_mask(mask)
        total += len(segmentation["counts"])
        if total > _LONGEST_COCO:
            raise InvalidInput(
                f"got masks whose run lengths exceed {_LONGEST_COCO // 2**20} MiB; expected fewer "
                "or simpler masks. Hide some objects and save the rest"
            )
        x0, y0, x1, y1 = object_box(mask) or (0, 0, -1, -1)
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "segmentation": segmentation,
                "area": int(mask.sum(dtype=np.int64)),
                "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                "iscrowd": 0,
                "ois_id": names[number - 1],
            }
        )
    document = {
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object", "supercategory": ""}],
    }
    return json.dumps(document, ensure_ascii=False).encode(), "application/json"


def _cutout(masks: Masks, _: Any, __: Any, parts: dict[str, bytes]) -> tuple[bytes, str]:
    """The pixels of all objects on a transparent background, cropped to the objects, RGBA PNG."""
    if "image" not in parts:
        raise InvalidInput("got no image for the cut-out; expected the image file in the request")
    inside = label_image(masks) > 0
    pixels = read_upload(parts["image"]).pixels()
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


_KINDS: dict[str, Callable[[Masks, list[str], str, dict[str, bytes]], tuple[bytes, str]]] = {
    "mask": _mask_picture,
    "coco": _coco,
    "cutout": _cutout,
}
