"""`ois segment`: clicks on objects in one image and writes their masks and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ois_cli import files, options
from ois_cli.clicking import (
    ClickResult,
    ObjectClick,
    apply_clicks,
    check_clicks,
    click_once,
    clicks_by_object,
    fits_one_request,
    label_image,
    object_box,
)
from ois_cli.drawing import pictures
from ois_cli.drawing.sheet import order_panels, sheet
from ois_cli.output import print_json, progress, say, warn
from ois_client.contract.errors import InvalidInput
from ois_client.contract.files import write_files
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import Picture, load_image
from ois_client.contract.transport import ModelInfo
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session
from ois_client.transports.address import is_server

_BACKEND, _DEVICE, _PRECISION = "onnxruntime", "cpu", "fp32"

UNTRAINED = (
    "these engines have random weights (manifest: trained = false): timings are real, masks are "
    "meaningless"
)
_ORDER_PANEL_WIDTH = 480


@dataclass(frozen=True, slots=True)
class Outputs:
    """Paths of the files to write; None: do not write this one."""

    mask: Path | None
    overlay: Path | None
    depth: Path | None
    order: Path | None

    def named(self) -> dict[str, Path]:
        """Return the paths that are not None, by field name."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: path for name, path in fields.items() if path is not None}

    def check(self, image: Path) -> None:
        """Raises `InvalidInput` or `OutputError` if a path cannot be written or is the image."""
        for name, path in self.named().items():
            formats = files.MASK_FORMATS if name == "mask" else files.PICTURE_FORMATS
            files.check_output(path, formats)
        files.check_distinct(self.named().values(), [image])


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The results of all clicks. runs: one per repetition; they differ only in timings.

    session: None if one request without a session was enough.
    """

    picture: Picture
    geometry: Geometry
    session: Session | None
    clicks: tuple[ObjectClick, ...]
    runs: tuple[tuple[ClickResult, ...], ...]

    @property
    def masks(self) -> dict[int, NDArray[np.uint8]]:
        """Object number -> (H, W) uint8, 1 = object."""
        return {result.clicked.number: result.mask for result in self.runs[0]}

    @property
    def depth(self) -> NDArray[np.float32] | None:
        return self.runs[0][-1].depth

    def timings_ms(self) -> dict[str, dict[str, float]]:
        """Return `encode`, in ms per stage, and `click`, the median over all clicks per stage.

        Of one request without a session, return `request`, in ms per stage.
        """
        if self.session is None:
            return {"request": dict(self.runs[0][0].timings_ms)}
        encode = self.session.last_encode
        stages: dict[str, list[float]] = {}
        for result in (result for run in self.runs for result in run):
            for stage, value in result.timings_ms.items():
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
            help="A click in pixels from the top left: [b]512,300[/b] adds to object 1, "
            "[b]80,40,-[/b] removes from it, [b]2:512,300[/b] adds to object 2. Repeat the option "
            "for more clicks; they are applied in order.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Mask as PNG: 255 = object, or k = object k if there are several."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Picture of the masks and clicks on the photograph.")
    ] = None,
    depth: Annotated[
        Path | None, typer.Option(help="Picture of the depth; near is bright.")
    ] = None,
    order: Annotated[
        Path | None,
        typer.Option(help="Picture of the order maps; bright is at the depth of the clicks."),
    ] = None,
    zoom: Annotated[
        bool,
        typer.Option(
            "--zoom",
            help="From an object's fourth click on, answer in a window around it if it is small. "
            "Its mask gets better; a new window is encoded first.",
        ),
    ] = False,
    as_json: options.AsJson = False,
    url: Annotated[
        str | None,
        typer.Option(
            help="A server instead of engines in this process: [b]grpc://host:8001[/b] or "
            "[b]http://host:8000[/b]. With one click per object it answers in one request and "
            "keeps nothing.",
            show_default=False,
        ),
    ] = None,
    token: options.Token = None,
    engines: options.Engines = None,
    backend: options.Backend = _BACKEND,
    device: options.Device = _DEVICE,
    precision: options.Precision = _PRECISION,
    threads: options.Threads = None,
    features: options.Features = None,
    repeat: Annotated[
        int, typer.Option(min=1, help="Repeat all clicks and report the median times.")
    ] = 1,
) -> None:
    """Click on objects in an image and write their masks.

    Each click refines the mask of the clicks before it, as in an annotation tool.

    Example: [b]ois segment photo.jpg -p 245,150 -p 60,200,- --out mask.png --overlay seen.jpg[/b]
    With a server: [b]ois segment photo.jpg -p 245,150 --url grpc://host:8001 --out mask.png[/b]
    """
    outputs = Outputs(out, overlay, depth, order)
    outputs.check(image)
    if zoom and (depth is not None or order is not None):
        raise InvalidInput(
            "got --zoom with --depth or --order; expected one of them, because depth and order are "
            "of the whole image. Run the command twice"
        )
    clicks = tuple(ObjectClick.parse(text) for text in point)
    picture = load_image(image)
    check_clicks(clicks, picture)
    if url is None:
        opened = open_engines(engines, backend, device, threads, precision, features)
    else:
        given = {
            "--engines": engines is not None,
            "--backend": backend != _BACKEND,
            "--device": device != _DEVICE,
            "--precision": precision != _PRECISION,
            "--threads": threads is not None,
            "--features": features is not None,
        }
        opened = open_server(url, token, [name for name, chosen in given.items() if chosen])
    with opened as client:
        if not client.info.trained:
            warn(UNTRAINED)
        want_depth = depth is not None or order is not None
        stateless = url is not None and repeat == 1 and not want_depth
        result = make_masks(
            client, picture, clicks, repeat, want_depth, stateless=stateless, zoom=zoom
        )
        with progress("writing"):
            write_files(render(result, outputs))
        if as_json:
            print_json(report(result, outputs, client.info))
        else:
            _print_report(report(result, outputs, client.info))


def make_masks(
    client: Client,
    picture: Picture,
    clicks: tuple[ObjectClick, ...],
    repeat: int,
    want_depth: bool,
    *,
    stateless: bool,
    zoom: bool = False,
) -> Segmentation:
    """Apply the clicks `repeat` times. zoom: of the session; see `Client.open`.

    stateless: if one request gives the same masks, send it instead of opening a session, so that
    the server does not keep features that nobody asks for again.
    """
    if stateless and fits_one_request(list(clicks_by_object(clicks).values())):
        with progress("segmenting"):
            once = tuple(click_once(client, picture, clicks))
        geometry = client.info.fit(picture.width, picture.height)
        return Segmentation(picture, geometry, None, clicks, (once,))
    with progress("encoding the image"):
        session = client.open(picture.data, zoom=zoom)
    with progress("clicking"):
        runs = tuple(
            tuple(apply_clicks(session, clicks, want_depth=want_depth and run == 0))
            for run in range(repeat)
        )
    return Segmentation(picture, session.geometry, session, clicks, runs)


def open_server(url: str, token: str | None, local_options: Sequence[str]) -> Client:
    """Connect to a server.

    local_options: the given options that only apply to engines in this process. Raises
    `InvalidInput` if there are any or `url` is not a server's address, and what `Client` raises.
    """
    if not is_server(url):
        raise InvalidInput(
            f"got --url {url}; expected a server's address, for example grpc://host:8001"
        )
    if local_options:
        raise InvalidInput(
            f"got {', '.join(local_options)} with --url; expected one of them, because the server "
            "has its own engines"
        )
    with progress("connecting"):
        return Client(url, token=token)


def open_engines(
    engines: Path | None,
    backend: str,
    device: str,
    threads: int | None,
    precision: str,
    features: Path | None,
) -> Client:
    """Open the engines of a folder (None: the default folder) in this process.

    features: a folder written by `ois encode`. Raises `EngineError` if there are no engines, and
    `InvalidInput` if the backend, device or precision is unknown or the features are another
    model's.
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


def render(result: Segmentation, outputs: Outputs) -> dict[Path, bytes]:
    """Return the bytes of every requested file."""
    masks = result.masks
    labels = label_image(sorted(masks.items()))
    shown: dict[Path, bytes] = {}
    size = (labels.shape[1], labels.shape[0])
    if outputs.mask is not None:
        shown[outputs.mask] = pictures.mask_bytes(labels, outputs.mask, several=len(masks) > 1)
    if outputs.overlay is not None:
        clicks = [one.click for one in result.clicks]
        picture = pictures.overlay(result.picture.pixels(), labels, clicks)
        shown[outputs.overlay] = pictures.picture_bytes(picture, outputs.overlay)
    if outputs.depth is not None and result.depth is not None:
        picture = pictures.depth_picture(result.depth, size)
        shown[outputs.depth] = pictures.picture_bytes(picture, outputs.depth)
    if outputs.order is not None and result.depth is not None:
        panels = order_panels(result.depth, clicks_by_object(result.clicks), result.geometry)
        picture = sheet(panels, columns=min(4, len(panels)), panel_width=_ORDER_PANEL_WIDTH)
        shown[outputs.order] = pictures.picture_bytes(picture, outputs.order)
    return shown


def report(result: Segmentation, outputs: Outputs, model: ModelInfo) -> dict[str, Any]:
    """Return the document that `--json` prints."""
    picture = result.picture
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
                "box_xyxy": object_box(result.masks[number]),
            }
            for number, clicks in clicks_by_object(result.clicks).items()
        ],
        "timings_ms": result.timings_ms(),
        "repeat": len(result.runs),
        "files": {name: str(path) for name, path in outputs.named().items()},
    }


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
        say("note: no file was written; --out mask.png writes the mask")
