"""`ois demo --sheet`: sample photographs, three clicks each, and a sheet of what happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ois_cli import files
from ois_cli.clicking import Answer, apply_clicks, check_prompts
from ois_cli.drawing import encoding, pictures
from ois_cli.drawing.orders import order_panels
from ois_cli.drawing.sheet import Panel, sheet
from ois_cli.output import progress
from ois_cli.photographs import PHOTOGRAPHS, Photograph
from ois_client.contract.images import load_image
from ois_client.sessions.client import Client

_COLUMNS = 4
_PANEL_WIDTH = 360


def write_sheets(client: Client, folder: Path) -> None:
    """Segment every sample photograph, write a sheet for each, print its path."""
    files.make_folder(folder)
    for photograph in PHOTOGRAPHS:
        path = folder / f"{photograph.name}.png"
        with progress(f"segmenting {photograph.subject}"):
            picture = photograph_sheet(client, photograph)
            files.write_files({path: encoding.picture_bytes(picture, path)})
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
