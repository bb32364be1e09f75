"""`ois segment`: click on objects in one image, and write masks and pictures of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ois_cli import files, options
from ois_cli.clicking import (
    Answer,
    Prompt,
    apply_clicks,
    check_prompts,
    clicks_by_object,
    label_image,
)
from ois_cli.drawing import pictures
from ois_cli.drawing.sheet import order_panels, sheet
from ois_cli.output import print_json, progress, say, warn
from ois_client.contract.files import write_files
from ois_client.contract.images import load_image
from ois_client.contract.transport import ModelInfo
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session

UNTRAINED = (
    "these engines hold random weights (manifest: trained = false): timings are real, masks "
    "mean nothing"
)
_ORDER_PANEL_WIDTH = 480


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where to write what; None is not wanted."""

    mask: Path | None
    overlay: Path | None
    depth: Path | None
    order: Path | None

    def named(self) -> dict[str, Path]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: path for name, path in fields.items() if path is not None}

    def check(self, image: Path) -> None:
        """Raises `InvalidInput` or `OutputError` before any work is done."""
        for name, path in self.named().items():
            formats = files.MASK_FORMATS if name == "mask" else files.PICTURE_FORMATS
            files.check_output(path, formats)
        files.check_distinct(self.named().values(), [image])


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What the clicks gave. runs: the answers of each repetition, all equal but for time."""

    session: Session
    prompts: tuple[Prompt, ...]
    runs: tuple[tuple[Answer, ...], ...]

    @property
    def masks(self) -> dict[int, NDArray[np.uint8]]:
        """Object number -> (H, W) uint8, 1 = object."""
        return {answer.prompt.number: answer.mask for answer in self.runs[0]}

    @property
    def depth(self) -> NDArray[np.float32] | None:
        return self.runs[0][-1].depth

    def timings_ms(self) -> dict[str, dict[str, float]]:
        """`encode` by stage, once an image; `click` by stage, the median of all clicks."""
        encode = self.session.last_encode
        stages: dict[str, list[float]] = {}
        for answer in (answer for run in self.runs for answer in run):
            for stage, value in answer.timings_ms.items():
                stages.setdefault(stage, []).append(value)
        return {
            "encode": dict(encode.timings_ms) if encode else {},
            "click": {stage: statistics.median(values) for stage, values in stages.items()},
        }


def register(app: typer.Typer) -> None:
    app.command("segment")(segment)


def segment(
    image: Annotated[Path, typer.Argument(help="The photograph.", show_default=False)],
    point: Annotated[
        list[str],
        typer.Option(
            "--point",
            "-p",
            metavar="[OBJECT:]X,Y[,+|-]",
            help="A click, in pixels from the top left: [b]512,300[/b] adds to object 1, "
            "[b]80,40,-[/b] removes, [b]2:512,300[/b] adds to object 2. Repeat it; clicks are "
            "applied in this order.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Mask as PNG: 255 = object; with several objects, k = object k."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Picture of masks and clicks over the photograph.")
    ] = None,
    depth: Annotated[Path | None, typer.Option(help="Picture of depth, near is bright.")] = None,
    order: Annotated[
        Path | None,
        typer.Option(help="Picture of the order maps: bright is at the clicks' own depth."),
    ] = None,
    as_json: options.AsJson = False,
    engines: options.Engines = None,
    backend: options.Backend = "onnxruntime",
    device: options.Device = "cpu",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    features: options.Features = None,
    repeat: Annotated[
        int, typer.Option(min=1, help="Repeat all clicks and report median times.")
    ] = 1,
) -> None:
    """Click on objects in an image and get their masks.

    Every click sees the mask that the clicks before it made, as in an annotation tool.
    """
    outputs = Outputs(out, overlay, depth, order)
    outputs.check(image)
    prompts = tuple(Prompt.parse(text) for text in point)
    picture = load_image(image)
    check_prompts(prompts, picture)
    with open_client(engines, backend, device, threads, precision, features) as client:
        if not client.info.trained:
            warn(UNTRAINED)
        with progress("encoding the image"):
            session = client.open(image)
        with progress("clicking"):
            want_depth = depth is not None or order is not None
            runs = tuple(
                tuple(apply_clicks(session, prompts, want_depth=want_depth and run == 0))
                for run in range(repeat)
            )
        result = Result(session, prompts, runs)
        with progress("writing"):
            write_files(render(result, outputs))
        if as_json:
            print_json(report(result, outputs, client.info))
        else:
            _print_report(report(result, outputs, client.info))


def open_client(
    engines: Path | None,
    backend: str,
    device: str,
    threads: int | None,
    precision: str,
    features: Path | None,
) -> Client:
    """The engines of a folder (None: the default folder) in this process.

    features: a folder of `ois encode`. Raises `EngineError` when there are no engines,
    `InvalidInput` for an unknown backend, device or precision, or features of another model.
    """
    with progress("loading the engines"):
        return Client(
            f"local:{engines or ''}",
            backend=backend,
            device=device,
            threads=threads,
            precision=precision,
            features=features,
        )


def render(result: Result, outputs: Outputs) -> dict[Path, bytes]:
    """The files that were asked for, as bytes."""
    masks = result.masks
    labels = label_image(masks)
    shown: dict[Path, bytes] = {}
    size = (labels.shape[1], labels.shape[0])
    if outputs.mask is not None:
        shown[outputs.mask] = pictures.mask_bytes(labels, outputs.mask, several=len(masks) > 1)
    if outputs.overlay is not None:
        clicks = [prompt.click for prompt in result.prompts]
        picture = pictures.overlay(result.session.picture.pixels(), labels, clicks)
        shown[outputs.overlay] = pictures.picture_bytes(picture, outputs.overlay)
    if outputs.depth is not None and result.depth is not None:
        picture = pictures.depth_picture(result.depth, size)
        shown[outputs.depth] = pictures.picture_bytes(picture, outputs.depth)
    if outputs.order is not None and result.depth is not None:
        panels = order_panels(
            result.depth, clicks_by_object(result.prompts), result.session.geometry
        )
        picture = sheet(panels, columns=min(4, len(panels)), panel_width=_ORDER_PANEL_WIDTH)
        shown[outputs.order] = pictures.picture_bytes(picture, outputs.order)
    return shown


def report(result: Result, outputs: Outputs, model: ModelInfo) -> dict[str, Any]:
    """What `--json` prints."""
    picture = result.session.picture
    return {
        "image": {"width": picture.width, "height": picture.height, "digest": picture.digest},
        "model": {
            "network": model.network,
            "engine": model.engine,
            "sha256": model.model_sha256,
        },
        "trained": model.trained,
        "objects": [
            {
                "object": number,
                "clicks": [[c.x, c.y, c.positive] for c in clicks],
                "area_px": int(result.masks[number].sum()),
                "box_xyxy": box(result.masks[number]),
            }
            for number, clicks in clicks_by_object(result.prompts).items()
        ],
        "timings_ms": result.timings_ms(),
        "repeat": len(result.runs),
        "files": {name: str(path) for name, path in outputs.named().items()},
    }


def box(mask: NDArray[np.uint8]) -> list[int] | None:
    """First and last column and row of the object, [x0, y0, x1, y1] inclusive; None if empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


def _print_report(document: dict[str, Any]) -> None:
    image = document["image"]
    for entry in document["objects"]:
        share = 100 * entry["area_px"] / (image["width"] * image["height"])
        place = "empty" if entry["box_xyxy"] is None else f"box {entry['box_xyxy']}"
        print(f"object {entry['object']}: {entry['area_px']} px, {share:.2f} %, {place}")
    for kind, stages in document["timings_ms"].items():
        times = ", ".join(f"{stage} {value:.1f} ms" for stage, value in stages.items())
        print(f"{kind}: {times}")
    for name, path in document["files"].items():
        print(f"{name}: {path}")
    if not document["files"]:
        say("note: nothing was written; --out mask.png keeps the mask")
