"""Pictures of results: masks on the image, depth and order maps, with clicks; and their files.

Images are (H, W, 3) uint8 RGB unless a function says otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ois_cli.drawing.colours import BLACK, GREEN, RED, WHITE, colour_map, object_colour
from ois_cli.files import PICTURE_FORMATS
from ois_client.contract.clicks import Click
from ois_client.contract.errors import OutputError

_BLEND = 0.45  # share of the object's colour inside its mask
_HEAT = 0.7  # share of the colours in a picture of attention; the rest is the photograph
_SMALLEST_WEIGHT = 1e-12
_QUALITY = 92  # of JPEG and WebP
_SUPERSAMPLING = 8  # clicks are drawn larger and scaled down, because Pillow has no antialiasing


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.integer], clicks: Sequence[Click] = ()
) -> NDArray[np.uint8]:
    """Return the image with tinted, outlined objects and the clicks.

    image: (H, W, 3). labels: (H, W) integers, 0 = background and k = object k.
    """
    shown = image.copy()
    for number in np.unique(labels[labels > 0]).tolist():
        colour = np.array(object_colour(number), dtype=np.float32)
        inside = labels == number
        shown[inside] = np.rint(image[inside] * (1 - _BLEND) + colour * _BLEND)
        shown[_contour(inside, _line_width(image.shape))] = colour
    return draw_clicks(shown, clicks)


def draw_clicks(
    image: NDArray[np.uint8], clicks: Sequence[Click], *, radius: int | None = None
) -> NDArray[np.uint8]:
    """Return the image with a green + per positive click and a red - per negative click.

    radius: of the markers in pixels; None for 1.3 % of the longest side.
    """
    if not clicks:
        return image
    picture = Image.fromarray(image)
    radius = radius or max(4, round(0.013 * max(picture.size)))
    for click in clicks:
        marker = _marker(radius, positive=click.positive)
        corner = (round(click.x) - marker.width // 2, round(click.y) - marker.height // 2)
        picture.paste(marker, corner, marker)
    return np.asarray(picture)


def depth_picture(depth: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of the depth in which near is bright.

    depth: (h, w) in [0, 1], near 0 and far 1. size: (W, H) of the picture.
    """
    return colour_map(1 - _resize(depth, size))


def order_picture(
    order: NDArray[np.floating], size: tuple[int, int], clicks: Sequence[Click] = ()
) -> NDArray[np.uint8]:
    """Return a picture of an order map with its clicks.

    order: (h, w), distance in depth to the clicks, in [0, 1]. size: (W, H) of the picture. Regions
    at the depth of the clicks are bright; regions in front or behind are dark. The scale is
    absolute, so that the maps of one image can be compared.
    """
    return draw_clicks(colour_map(1 - _resize(order, size)), clicks)


def attention_picture(
    image: NDArray[np.uint8], weights: NDArray[np.floating], top: float
) -> NDArray[np.uint8]:
    """Return a picture of attention weights over the grey image.

    image: (H, W, 3). weights: (gh, gw), one per patch. top: the weight of the brightest colour, so
    that several pictures can have one scale; larger weights look the same.
    """
    size = (image.shape[1], image.shape[0])
    colours = colour_map(_resize(weights, size) / max(top, _SMALLEST_WEIGHT))
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return np.rint(colours * _HEAT + grey * (1 - _HEAT)).astype(np.uint8)


def picture_bytes(picture: NDArray[np.uint8], path: Path, *, quality: int = _QUALITY) -> bytes:
    """Encode a picture in the format of the suffix of `path`.

    picture: (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey. quality: of JPEG and WebP. Raises
    `OutputError` if the format cannot store it; for example, WebP allows at most 16383 pixels per
    side.
    """
    data = io.BytesIO()
    form = PICTURE_FORMATS[path.suffix.lower()]
    try:
        Image.fromarray(picture).save(data, form, quality=quality)
    except (OSError, ValueError) as error:
        height, width = picture.shape[:2]
        raise OutputError(
            f"cannot store a picture of {width}x{height} pixels as {form} ({error}); "
            f"use {path.with_suffix('.png')} instead"
        ) from error
    return data.getvalue()


def mask_bytes(labels: NDArray[np.uint8], path: Path, *, several: bool) -> bytes:
    """Encode a label image as 8-bit grey, in the format of the suffix of `path`.

    labels: (H, W) uint8, 0 = background and k = object k. Without `several`, the object is stored
    as 255, so that viewers show it as white.
    """
    stored = labels if several else np.where(labels > 0, 255, 0).astype(np.uint8)
    return picture_bytes(stored, path)


def _resize(values: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _line_width(shape: tuple[int, ...]) -> int:
    return max(1, round(0.003 * max(shape[:2])))


def _contour(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the outermost `width` pixels of the mask (4-neighbour erosion)."""
    core = inside
    for _ in range(width):
        padded = np.pad(core, 1, mode="edge")  # no contour along the image border
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _marker(radius: int, *, positive: bool) -> Image.Image:
    """Draw a disk with a white rim and a + or -, in an RGBA square with an odd side length."""
    side = 2 * radius + 1
    big = Image.new("RGBA", (side * _SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(big)
    last = big.width - 1

    def part(share: float) -> int:
        """A distance from the edge; rounded, so that the marker stays symmetric."""
        return round(share * last)

    sign = GREEN if positive else RED
    for share, colour in ((0.0, BLACK), (0.04, WHITE), (0.14, sign)):
        edge = part(share)
        draw.ellipse((edge, edge, last - edge, last - edge), fill=(*colour, 255))
    end, side_of_bar = part(0.28), part(0.43)
    draw.rectangle((end, side_of_bar, last - end, last - side_of_bar), fill=(*WHITE, 255))
    if positive:
        draw.rectangle((side_of_bar, end, last - side_of_bar, last - end), fill=(*WHITE, 255))
    return big.resize((side, side), Image.Resampling.BOX)
