"""Masks from a file that the user has: a picture of masks, COCO JSON, or run lengths.

    request, head   name, width, height   of the image
             parts  file                  the file, as it is
    response, head  objects               [{name, label, area_px, box_xyxy, grid}, ...]
                    model_sha256
             parts  shown0, mask0, coverage0, shown1, ...   as those of a click

A PNG is one mask, or a label map with one object per value (see `_masks_of_png`). A COCO document
has the objects of the image with this file name, as run lengths or polygons. A single run length
or a list of them is read too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_cli.clicking import MAX_OBJECTS
from ois_cli.demo.gateway.clicks import image_size
from ois_cli.demo.gateway.coco import NO_CLASS
from ois_cli.demo.gateway.frames import read_frame
from ois_cli.demo.gateway.masks import mask_head, mask_parts
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import mask_of_coco
from ois_client.contract.transport import ModelInfo
from ois_client.formats.polygons import Ring, mask_of_rings

_VOID = 255
_EXPECTED = (
    "expected a PNG mask or label map, COCO JSON, or a COCO run length, all of the size of the "
    "open image"
)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedMask:
    """One object of a file. mask: (H, W) uint8, 1 = object. Empty texts: the file has none."""

    mask: NDArray[np.uint8]
    name: str = ""
    label: str = ""


def loaded(data: bytes, info: ModelInfo) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read the file in a frame -> head and parts of the response.

    Raises `InvalidInput` if the file has no masks for this image, with what it has instead.
    """
    head, parts = read_frame(data)
    size = image_size(head)
    fit = info.fit(*size)
    objects: list[dict[str, Any]] = []
    found: dict[str, bytes] = {}
    for one in masks_of_file(parts.get("file", b""), str(head.get("name", "")), size):
        if not one.mask.any():
            continue
        if len(objects) == MAX_OBJECTS:
            raise InvalidInput(f"got more than {MAX_OBJECTS} objects; expected fewer on one image")
        made = mask_parts(one.mask, coverage_of_mask(one.mask, fit))
        found |= {f"{part}{len(objects)}": content for part, content in made.items()}
        objects.append({"name": one.name, "label": one.label, **mask_head(one.mask, fit)})
    if not objects:
        raise InvalidInput("got a file whose masks are all empty; expected at least one object")
    return {"objects": objects, "model_sha256": info.model_sha256}, found


def masks_of_file(data: bytes, image: str, size: tuple[int, int]) -> Iterator[LoadedMask]:
    """Yield the objects of a file, one at a time.

    image: file name of the image that is open. size: its (width, height). Raises `InvalidInput`.
    """
    if data.startswith(b"\x89PNG"):
        yield from _masks_of_png(data, size)
        return
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput(f"got a file that is neither PNG nor JSON; {_EXPECTED}") from None
    if isinstance(value, dict) and "annotations" in value:
        yield from _masks_of_coco(value, image, size)
        return
    for one in value if isinstance(value, list) else [value]:
        yield LoadedMask(mask_of_coco(one, expected=size))


def _masks_of_png(data: bytes, size: tuple[int, int]) -> Iterator[LoadedMask]:
    """Masks of a PNG.

    Grey, palette, 16 bits: one object per value except 0. Grey with 255 beside other values is one
    mask with soft edges, cut at half; in a palette, 255 is the void of Pascal VOC and is left out.
    With transparency: one object, what is opaque. Colour: one object per colour except black.
    """
    values, mode = _values_of_png(data, size)
    numbers = np.unique(values)
    if mode == "L" and len(numbers) > 2 and numbers[-1] == _VOID:
        values, numbers = values > 127, np.array([0, 1])
    if mode == "P":
        numbers = numbers[numbers != _VOID]
    numbers = numbers[numbers != 0]
    if len(numbers) > MAX_OBJECTS:
        raise InvalidInput(
            f"got a picture with {len(numbers)} values or colours; expected a mask or a label map "
            f"with at most {MAX_OBJECTS} objects. To segment this picture, open it as an image"
        )
    for number in numbers:
        yield LoadedMask((values == number).astype(np.uint8))


def _values_of_png(data: bytes, size: tuple[int, int]) -> tuple[NDArray[Any], str]:
    """One number per pixel, (H, W), of which 0 is background; and Pillow's mode of the PNG."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != size:
                raise InvalidInput(
                    f"got a mask of {picture.width}x{picture.height} pixels; expected "
                    f"{size[0]}x{size[1]}, the size of the open image"
                )
            if picture.mode in ("RGBA", "LA"):
                opaque = np.asarray(picture.getchannel("A")) > 127
                return opaque.astype(np.uint8), picture.mode
            values = np.asarray(picture)
            if picture.mode == "RGB":
                red, green, blue = np.moveaxis(values.astype(np.uint32), 2, 0)
                values = red << 16 | green << 8 | blue
            return values, picture.mode
    except InvalidInput:
        raise
    except Exception as error:  # decoders raise every built-in type on damaged data
        raise InvalidInput(f"got a damaged PNG ({error}); {_EXPECTED}") from error


def _masks_of_coco(
    document: dict[str, Any], image: str, size: tuple[int, int]
) -> Iterator[LoadedMask]:
    try:
        image_id = _image_id(document["images"], image, size)
        names = {one["id"]: str(one["name"]) for one in document.get("categories", [])}
        mine = [one for one in document["annotations"] if one["image_id"] == image_id]
        if not mine:
            raise InvalidInput(f"got a COCO file without objects on {image}; expected some")
        for one in mine:
            mask = _mask_of_segmentation(one["segmentation"], size)
            category = names.get(one["category_id"], "")
            label = "" if category == NO_CLASS else category
            yield LoadedMask(mask, str(one.get("ois_id", "")), label)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput(
            f"got a damaged COCO file ({type(error).__name__}: {error}); expected images, "
            "annotations with image_id, category_id and segmentation, and categories"
        ) from error


def _image_id(images: list[dict[str, Any]], name: str, size: tuple[int, int]) -> Any:
    """The id of the image in the document: that of its path, of its name, or the only image."""
    exact = [one for one in images if one["file_name"] == name]
    by_name = [one for one in images if PurePath(one["file_name"]).name == PurePath(name).name]
    found = exact or by_name or images
    if len(found) != 1:
        listed = ", ".join(str(one["file_name"]) for one in images[:3])
        raise InvalidInput(
            f"got a COCO file of {len(images)} images ({listed}, ...) in which {name} is not one; "
            "expected one with this file name"
        )
    given = (found[0].get("width", size[0]), found[0].get("height", size[1]))
    if given != size:
        raise InvalidInput(
            f"got a COCO file in which {found[0]['file_name']} has {given[0]}x{given[1]} pixels; "
            f"expected {size[0]}x{size[1]}, the size of the open image"
        )
    return found[0]["id"]


def _mask_of_segmentation(value: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A run length or polygons -> a mask. A pixel inside any of the polygons is inside."""
    if isinstance(value, dict):
        return mask_of_coco(value, expected=size)
    mask = np.zeros((size[1], size[0]), np.uint8)
    for flat in value:
        mask |= mask_of_rings([Ring(np.array(flat, np.float64).reshape(-1, 2), False)], *size)
    return mask
