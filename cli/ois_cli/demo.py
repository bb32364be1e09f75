"""`ois demo`: sample photographs, three clicks each, and a sheet that shows what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ois_cli import encoding, files, options, pictures
from ois_cli.clicking import Answer, apply_clicks, check_prompts
from ois_cli.orders import order_panels
from ois_cli.output import progress, warn
from ois_cli.photographs import PHOTOGRAPHS, Photograph
from ois_cli.segment import UNTRAINED, open_client
from ois_cli.sheet import Panel, sheet
from ois_client.client import Client
from ois_client.images import load_image

_COLUMNS = 4
_PANEL_WIDTH = 360


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the sheets.")] = Path("demo-output"),
    engines: options.Engines = None,
    backend: options.Backend = "onnxruntime",
    precision: options.Precision = "f32",
    threads: options.Threads = None,
) -> None:
    """Segment sample photographs and write a sheet for each.

    A sheet shows the clicks, the depth, the order maps, and the mask after each click.
    """
    with open_client(engines, backend, threads, precision) as client:
        if not client.info.trained:
            warn(UNTRAINED)
        files.make_folder(output)
        for photograph in PHOTOGRAPHS:
            path = output / f"{photograph.name}.png"
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
