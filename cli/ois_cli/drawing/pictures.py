"""Pictures of results: masks over the image, depth, and order maps, with the clicks drawn in.

Every function takes and gives (H, W, 3) uint8 RGB unless it says otherwise.
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
_QUALITY = 92  # of JPEG and WebP; PNG ignores it
_SUPERSAMPLING = 8  # clicks are drawn larger and shrunk: Pillow's circles have jagged edges


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.integer], clicks: Sequence[Click] = ()
) -> NDArray[np.uint8]:
    """The image with every object tinted and outlined, and the clicks on top.

    labels: (H, W), 0 = background, k = object k, in the image's frame.
    """
    shown = image.copy()
    for number in np.unique(labels[labels > 0]).tolist():
        colour = np.array(object_colour(number), dtype=np.float32)
        inside = labels == number
        shown[inside] = np.rint(image[inside] * (1 - _BLEND) + colour * _BLEND)
        shown[_contour(inside, _line_width(image.shape))] = colour
    return draw_clicks(shown, clicks)


def draw_clicks(image: NDArray[np.uint8], clicks: Sequence[Click]) -> NDArray[np.uint8]:
    """The image with a green + for each positive click and a red - for each negative one."""
    if not clicks:
        return image
    picture = Image.fromarray(image)
    radius = max(4, round(0.013 * max(picture.size)))
    for click in clicks:
        marker = _marker(radius, positive=click.positive)
        corner = (round(click.x) - marker.width // 2, round(click.y) - marker.height // 2)
        picture.paste(marker, corner, marker)
    return np.asarray(picture)


def depth_picture(depth: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.uint8]:
    """depth: (h, w) in [0, 1], near 0 and far 1 -> picture of `size` (W, H), near bright."""
    return colour_map(1 - _resize(depth, size))


def order_picture(
    order: NDArray[np.floating], size: tuple[int, int], clicks: Sequence[Click] = ()
) -> NDArray[np.uint8]:
    """order: (h, w), distance in depth to the clicks -> picture of `size` (W, H) with them.

    Bright is what lies at the clicks' own depth, dark what lies in front or behind. The
    scale is absolute (0..1), so that maps of one image can be compared.
    """
    return draw_clicks(colour_map(1 - _resize(order, size)), clicks)


def picture_bytes(picture: NDArray[np.uint8], path: Path) -> bytes:
    """(H, W, 3) RGB or (H, W) grey -> bytes in the format that `path` ends in.

    Raises `OutputError` when the format cannot hold it (WebP ends at 16383 pixels a side).
    """
    data = io.BytesIO()
    form = PICTURE_FORMATS[path.suffix.lower()]
    try:
        Image.fromarray(picture).save(data, form, quality=_QUALITY)
    except (OSError, ValueError) as error:
        height, width = picture.shape[:2]
        raise OutputError(
            f"cannot store a picture of {width}x{height} pixels as {form} ({error}); "
            f"name {path.with_suffix('.png')} instead"
        ) from error
    return data.getvalue()


def mask_bytes(labels: NDArray[np.uint8], path: Path, *, several: bool) -> bytes:
    """labels: (H, W), 0 background, k = object k -> 8-bit grey.

    One object is stored as 255, as every viewer shows it; `several` keep their numbers.
    """
    stored = labels if several else np.where(labels > 0, 255, 0).astype(np.uint8)
    return picture_bytes(stored, path)


def _resize(values: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _line_width(shape: tuple[int, ...]) -> int:
    return max(1, round(0.003 * max(shape[:2])))


def _contour(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The mask's outermost `width` pixels, as its 4-neighbour erosion leaves them."""
    core = inside
    for _ in range(width):
        padded = np.pad(core, 1, mode="edge")  # the picture's border is no contour
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _marker(radius: int, *, positive: bool) -> Image.Image:
    """A disk with a white rim and a + or - inside, RGBA, centred in an odd-sized square."""
    side = 2 * radius + 1
    big = Image.new("RGBA", (side * _SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(big)
    last = big.width - 1

    def part(share: float) -> int:
        """A distance from the marker's edge; whole pixels keep the marker symmetric."""
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
