"""The sample photographs of `ois demo`, with clicks on them, and a sheet of pictures for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ois_cli import files
from ois_cli.clicking import ClickResult, ObjectClick, apply_clicks, check_clicks
from ois_cli.drawing import pictures
from ois_cli.drawing.sheet import Panel, order_panels, sheet
from ois_cli.output import progress
from ois_client.contract.files import write_files
from ois_client.contract.images import load_image
from ois_client.sessions.client import Client

_COLUMNS = 4
_PANEL_WIDTH = 360


@dataclass(frozen=True, slots=True)
class Photograph:
    """A sample photograph. file: its name. points: two clicks that add and one that removes."""

    file: str
    subject: str
    points: tuple[str, str, str]

    @property
    def name(self) -> str:
        """The file name without its suffix."""
        return Path(self.file).stem

    @property
    def path(self) -> Path:
        from ois_export.parity.cases import photo_folder

        return photo_folder() / self.file

    def clicks(self) -> tuple[ObjectClick, ...]:
        return tuple(ObjectClick.parse(point) for point in self.points)


PHOTOGRAPHS = (
    Photograph("astronaut.jpg", "the astronaut", ("130,330", "220,110", "430,440,-")),
    Photograph("chelsea.jpg", "the cat", ("245,150", "60,200", "425,90,-")),
    Photograph("coffee.jpg", "the cup", ("290,60", "250,215", "110,250,-")),
    Photograph("rocket.jpg", "the rocket", ("321,360", "321,180", "190,250,-")),
)


def write_sheets(client: Client, folder: Path) -> None:
    """Segment every sample photograph, write a sheet per photograph and print its path."""
    files.make_folder(folder)
    for photograph in PHOTOGRAPHS:
        path = folder / f"{photograph.name}.png"
        with progress(f"segmenting {photograph.subject}"):
            picture = photograph_sheet(client, photograph)
            write_files({path: pictures.picture_bytes(picture, path)})
        print(path)


def photograph_sheet(client: Client, photograph: Photograph) -> NDArray[np.uint8]:
    """Segment a photograph and draw every step.

    Returns (H, W, 3) uint8 RGB: the clicks, the depth, the order maps, and the mask after one,
    two and three clicks.
    """
    clicks = photograph.clicks()
    picture = load_image(photograph.path)
    check_clicks(clicks, picture)
    session = client.open(photograph.path)
    results = list(apply_clicks(session, clicks, want_depth=True))
    pixels = picture.pixels()
    points = [one.click for one in clicks]
    panels = [Panel(f"{photograph.subject}: clicks", pictures.draw_clicks(pixels, points))]
    depth = results[-1].depth
    if depth is not None:
        size = (picture.width, picture.height)
        panels.append(Panel("depth, near is bright", pictures.depth_picture(depth, size)))
        panels += order_panels(depth, {1: points}, session.geometry)
    panels += [
        Panel(_title(count, result), pictures.overlay(pixels, result.mask, points[:count]))
        for count, result in enumerate(results, start=1)
    ]
    footer = f"{client.info.network}, {client.info.engine}"
    if not client.info.trained:
        footer += ". UNTRAINED weights: these masks are meaningless"
    return sheet(panels, columns=_COLUMNS, panel_width=_PANEL_WIDTH, footer=footer)


def _title(count: int, result: ClickResult) -> str:
    total_ms = sum(result.timings_ms.values())
    return f"after {count} click{'s' if count > 1 else ''}, {total_ms:.0f} ms"
