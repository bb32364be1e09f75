"""A sheet: labelled pictures of equal width in a grid, and the panels of order maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ois_cli.drawing.pictures import order_picture
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry

_GAP = 12
_TITLE_HEIGHT = 30
_TITLE_SIZE = 18
_PAPER = (255, 255, 255)
_INK = (24, 24, 24)


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a sheet. picture: (H, W, 3) uint8 RGB. title: the line above it."""

    title: str
    picture: NDArray[np.uint8]


def sheet(
    panels: Sequence[Panel], *, columns: int, panel_width: int, footer: str = ""
) -> NDArray[np.uint8]:
    """Arrange panels row by row in one picture, (H, W, 3) uint8 RGB.

    Panels are scaled to `panel_width` pixels; a row is as high as its highest panel. Raises
    `InvalidInput` if there is no panel or `columns` is below 1.
    """
    if not panels or columns < 1:
        raise InvalidInput(
            f"got {len(panels)} panels in {columns} columns; expected at least one of each"
        )
    tiles = [_tile(panel.picture, panel_width) for panel in panels]
    rows = [
        range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)
    ]
    heights = [_TITLE_HEIGHT + max(tiles[i].height for i in row) + _GAP for row in rows]
    used = min(columns, len(tiles))
    width = _GAP + used * (panel_width + _GAP)
    height = _GAP + sum(heights) + (_TITLE_HEIGHT if footer else 0)
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=_TITLE_SIZE)
    top = _GAP
    for row, row_height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = _GAP + column * (panel_width + _GAP)
            draw.text((left, top), panels[index].title, fill=_INK, font=font)
            page.paste(tiles[index], (left, top + _TITLE_HEIGHT))
        top += row_height
    if footer:
        draw.text((_GAP, top), footer, fill=_INK, font=font)
    return np.asarray(page)


def order_panels(
    depth: NDArray[np.float32], objects: Mapping[int, Sequence[Click]], geometry: Geometry
) -> list[Panel]:
    """Return the order maps (paper §3.2) as panels.

    Each object has one panel for all positive clicks and one per negative click. depth: (h, w)
    at network size, near 0 and far 1. objects: number -> clicks in pixels of the image.
    """
    # Imported here so that `ois --help` stays fast.
    from ois_runtime.engines.image_state import order_maps

    size = (geometry.width, geometry.height)
    panels: list[Panel] = []
    for number, clicks in objects.items():
        name = f"object {number}, " if len(objects) > 1 else ""
        maps = order_maps(depth, clicks, geometry)
        positive = [click for click in clicks if click.positive]
        negative = [click for click in clicks if not click.positive]
        if maps.positive is not None:
            picture = order_picture(maps.positive, size, positive)
            panels.append(Panel(f"{name}order M+", picture))
        for index, (order, click) in enumerate(zip(maps.negative, negative, strict=True), start=1):
            which = f" {index}" if len(negative) > 1 else ""
            panels.append(Panel(f"{name}order M-{which}", order_picture(order, size, [click])))
    return panels


def _tile(picture: NDArray[np.uint8], width: int) -> Image.Image:
    image = Image.fromarray(picture)
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)
