"""`ois demo --sheet`: sample photographs, three clicks each, and a sheet of what happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ois_cli import files
from ois_cli.clicking import Answer, Prompt, apply_clicks, check_prompts
from ois_cli.drawing import pictures
from ois_cli.drawing.sheet import Panel, order_panels, sheet
from ois_cli.output import progress
from ois_client.contract.files import write_files
from ois_client.contract.images import load_image
from ois_client.sessions.client import Client


@dataclass(frozen=True, slots=True)
class Photograph:
    """file: name among the sample photographs. points: two that add, one that removes."""

    file: str
    subject: str
    points: tuple[str, str, str]

    @property
    def name(self) -> str:
        return Path(self.file).stem

    @property
    def path(self) -> Path:
        from ois_export.parity.cases import photo_folder

        return photo_folder() / self.file

    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(Prompt.parse(point) for point in self.points)


PHOTOGRAPHS = (
    Photograph("astronaut.jpg", "the astronaut", ("220,110", "130,310", "430,440,-")),
    Photograph("chelsea.jpg", "the cat", ("245,150", "60,200", "425,90,-")),
    Photograph("coffee.jpg", "the cup", ("290,60", "250,215", "110,250,-")),
    Photograph("rocket.jpg", "the rocket", ("321,290", "321,150", "190,250,-")),
)

_COLUMNS = 4
_PANEL_WIDTH = 360


def write_sheets(client: Client, folder: Path) -> None:
    """Segment every sample photograph, write a sheet for each, print its path."""
    files.make_folder(folder)
    for photograph in PHOTOGRAPHS:
        path = folder / f"{photograph.name}.png"
        with progress(f"segmenting {photograph.subject}"):
            picture = photograph_sheet(client, photograph)
            write_files({path: pictures.picture_bytes(picture, path)})
        print(path)


def photograph_sheet(client: Client, photograph: Photograph) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: image with clicks, depth, order maps, mask after 1, 2, 3 clicks."""
    prompts = photograph.prompts()
    picture = load_image(photograph.path)
    check_prompts(prompts, picture)
    session = client.open(photograph.path)
    answers = list(apply_clicks(session, prompts, want_depth=True))
    pixels = picture.pixels()
    clicks = [prompt.click for prompt in prompts]
    panels = [Panel(f"{photograph.subject}: clicks", pictures.draw_clicks(pixels, clicks))]
    depth = answers[-1].depth
    if depth is not None:
        size = (picture.width, picture.height)
        panels.append(Panel("depth, near is bright", pictures.depth_picture(depth, size)))
        panels += order_panels(depth, {1: clicks}, session.geometry)
    panels += [
        Panel(_title(index, answer), pictures.overlay(pixels, answer.mask, clicks[:index]))
        for index, answer in enumerate(answers, start=1)
    ]
    footer = f"{client.info.network}, {client.info.engine}"
    if not client.info.trained:
        footer += ". UNTRAINED weights: these masks mean nothing"
    return sheet(panels, columns=_COLUMNS, panel_width=_PANEL_WIDTH, footer=footer)


def _title(index: int, answer: Answer) -> str:
    total_ms = sum(answer.timings_ms.values())
    return f"after {index} click{'s' if index > 1 else ''}, {total_ms:.0f} ms"
