"""What a person takes away from the page: mask picture, COCO JSON, cut-out.

The page sends its masks (it is the one that keeps them) and, for a cut-out, the image file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.clicking import MAX_OBJECTS, box_of_mask, label_image
from ois_cli.demo.gateway.frames import read_frame
from ois_cli.demo.gateway.pictures import read_upload
from ois_cli.drawing.pictures import mask_bytes, picture_bytes
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import coco_of_mask, mask_of_png

Masks = dict[int, NDArray[np.uint8]]

_LONGEST_NAME = 200


def result(data: bytes) -> tuple[bytes, str]:
    """A frame of the page -> (file, media type).

    head: kind ("mask", "coco" or "cutout"), name of the image file, objects: a list of names.
    parts: mask0, mask1, ... as PNG, one for each object, all of one size; image for a cut-out.
    Raises `InvalidInput` and its kinds.
    """
    head, parts = read_frame(data)
    kind, name, names = head.get("kind"), head.get("name"), head.get("objects")
    write = _KINDS.get(kind) if isinstance(kind, str) else None
    if write is None:
        raise InvalidInput(f"got the kind {kind!r}; expected one of {[*_KINDS]}")
    if not isinstance(name, str) or not isinstance(names, list):
        raise InvalidInput("got no name and objects; expected those of the image")
    if not 1 <= len(names) <= MAX_OBJECTS:
        raise InvalidInput(f"got {len(names)} objects; expected 1 to {MAX_OBJECTS}")
    masks = _masks(parts, len(names))
    return write(masks, [str(n)[:_LONGEST_NAME] for n in names], name[:_LONGEST_NAME], parts)


def _masks(parts: dict[str, bytes], count: int) -> Masks:
    masks: Masks = {}
    size: tuple[int, int] | None = None
    for number in range(1, count + 1):
        data = parts.get(f"mask{number - 1}")
        if data is None:
            raise InvalidInput(f"got no mask of object {number}; expected {count} masks")
        mask = mask_of_png(data, expected=size)
        masks[number] = mask
        size = mask.shape[1], mask.shape[0]
    return masks


def _mask_picture(masks: Masks, *_: Any) -> tuple[bytes, str]:
    """255 = object; with several objects, k = object k, as `ois segment --out` writes it."""
    labels = label_image(masks)
    return mask_bytes(labels, Path("mask.png"), several=len(masks) > 1), "image/png"


def _coco(masks: Masks, names: list[str], name: str, _: Any) -> tuple[bytes, str]:
    """As `ois annotate` writes it (`coco.py`); `ois_id` is the object's name on the page."""
    height, width = masks[1].shape
    annotations = []
    for number, mask in masks.items():
        x0, y0, x1, y1 = box_of_mask(mask) or (0, 0, -1, -1)
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "segmentation": coco_of_mask(mask),
                "area": int(mask.sum(dtype=np.int64)),
                "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                "iscrowd": 0,
                "ois_id": names[number - 1],
            }
        )
    document = {
        "licenses": [],
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object", "supercategory": ""}],
    }
    return json.dumps(document, ensure_ascii=False).encode(), "application/json"


def _cutout(masks: Masks, _: Any, __: Any, parts: dict[str, bytes]) -> tuple[bytes, str]:
    """The pixels of all objects on transparent ground, cropped to them, RGBA PNG."""
    if "image" not in parts:
        raise InvalidInput("got no image to cut from; expected the file that was opened")
    pixels = read_upload(parts["image"]).pixels()
    inside = label_image(masks) > 0
    if inside.shape != pixels.shape[:2]:
        raise InvalidInput(
            f"got masks of {inside.shape[::-1]} pixels and an image of {pixels.shape[1::-1]}"
        )
    edges = box_of_mask(inside.astype(np.uint8))
    if edges is None:
        raise InvalidInput("the masks are empty: there is nothing to cut out. Click first")
    x0, y0, x1, y1 = edges
    part = np.s_[y0 : y1 + 1, x0 : x1 + 1]
    alpha = np.where(inside[part], 255, 0).astype(np.uint8)
    return picture_bytes(np.dstack((pixels[part], alpha)), Path("cutout.png")), "image/png"


_KINDS: dict[str, Callable[[Masks, list[str], str, dict[str, bytes]], tuple[bytes, str]]] = {
    "mask": _mask_picture,
    "coco": _coco,
    "cutout": _cutout,
}
