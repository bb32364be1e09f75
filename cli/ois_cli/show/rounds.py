"""`ois show rounds`: the robot's rounds on one object, several methods under each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import typer
from numpy.typing import NDArray

from ois_cli.drawing.sheet import Panel
from ois_cli.options import AsJson, Token
from ois_cli.output import print_json, progress, warn
from ois_cli.show import objects
from ois_cli.show.figure import Out, PanelWidth, Stage, check_figure, percent, write_figure
from ois_cli.show.methods import Method, Methods, Threads, parse_methods
from ois_cli.show.objects import Subject, find_subjects
from ois_client.contract.clicks import Click
from ois_client.contract.errors import OISError

if TYPE_CHECKING:
    from ois_benchmarks.contestants.client import PeerClient
    from ois_benchmarks.quality.records import Measured
    from ois_client.contract.images import ImageSource
    from ois_client.sessions.client import Client

EXIT_SOME_FAILED = 3


def register(parent: typer.Typer) -> None:
    parent.command()(rounds)


@dataclass(slots=True, eq=False)
class Strip:
    """The rounds of one method. masks: (H, W), 1 = object, after each click that succeeded.

    record: None if the method could not be opened. failure: what went wrong, or "".
    """

    method: Method
    masks: list[NDArray[np.uint8]] = field(default_factory=list)
    record: Measured | None = None
    failure: str = ""

    def report(self) -> dict[str, Any]:
        clicks = self.record.clicks if self.record else ()
        ious = self.record.ious if self.record else ()
        return {
            "name": self.method.name,
            "url": self.method.url,
            "clicks": [list(click) for click in clicks],
            "ious": [round(iou, 5) for iou in ious],
            "failure": self.failure or None,
        }


def rounds(
    methods: Methods,
    out: Out,
    image: objects.ImageFile = None,
    mask: objects.MaskFile = None,
    data: objects.Data = None,
    name: Annotated[
        str | None,
        typer.Option("--object", help="Name of the object in the data set.", show_default=False),
    ] = None,
    clicks: Annotated[int, typer.Option(min=1, max=24, help="Clicks of the robot.")] = 5,
    panel_width: PanelWidth = 320,
    threads: Threads = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Draw the masks after each click of the robot user, one row per method.

    The robot is that of [b]ois bench quality[/b]: it clicks on the deepest point of what is wrong,
    so each method gets its own clicks. The first column is the true mask.

    Example: [b]ois show rounds local: peer:grabcut --image photo.jpg --mask true.png -o
    rounds.png[/b]
    From a data set: [b]ois show rounds OIS=torch:mine.safetensors --data scenes --object
    scene-00003 --clicks 4 -o rounds.png[/b]
    """
    check_figure(out, image, mask)
    chosen = parse_methods(methods)
    subject = find_subjects(image, mask, data, [name] if name else [])[0]
    strips = []
    for method in chosen:
        with progress(f"{method.name} clicks"):
            strips.append(make_strip(method, subject, clicks, threads, token))
        if strips[-1].failure:
            warn(f"{method.name} failed: {strips[-1].failure}")
    if not any(strip.masks for strip in strips):
        raise OISError("every method failed, so no figure was written")
    stage = Stage(subject.pixels, panel_width)
    truth = Panel("ground truth", stage.draw(subject.target.mask))
    rows = [[truth, *panels_of(strip, stage, clicks)] for strip in strips]
    write_figure(out, rows, panel_width=panel_width)
    _report(strips, subject, out, as_json=as_json)
    if any(strip.failure for strip in strips):
        raise typer.Exit(EXIT_SOME_FAILED)


def make_strip(
    method: Method, subject: Subject, clicks: int, threads: int | None, token: str | None = None
) -> Strip:
    """Let the robot click. A typed error ends the strip and becomes its failure."""
    from ois_benchmarks.quality.run import measure

    strip = Strip(method)
    try:
        with method.open(threads, token) as client:
            if not client.info.trained:
                warn(f"{method.name} has random weights; its masks say nothing about the method")
            watched = cast("Client", _Watched(client, strip.masks))
            strip.record = measure(watched, subject.name, subject.target, clicks)
    except OISError as error:
        strip.failure = f"{error} ({error.code})"
        return strip
    if failure := strip.record.failure:
        strip.failure = f"click {failure.click}: {failure.message} ({failure.code})"
    return strip


def panels_of(strip: Strip, stage: Stage, clicks: int) -> list[Panel]:
    """One panel per click; blank ones from the click that failed on."""
    panels = []
    made = [Click(*click) for click in strip.record.clicks] if strip.record else []
    ious = strip.record.ious if strip.record else ()
    for count in range(1, clicks + 1):
        if count <= len(strip.masks):
            title = f"{strip.method.name} {count}: {percent(ious[count - 1])}"
            panels.append(Panel(title, stage.draw(strip.masks[count - 1], made[:count])))
        else:
            first = count == len(strip.masks) + 1
            panels.append(Panel(f"{strip.method.name} failed" if first else "", stage.blank()))
    return panels


def _report(strips: list[Strip], subject: Subject, out: Path, *, as_json: bool) -> None:
    height, width = subject.target.mask.shape
    if as_json:
        area = int(subject.target.mask.sum())
        described = {"name": subject.name, "width": width, "height": height, "area_px": area}
        print_json(
            {
                "object": described,
                "methods": [strip.report() for strip in strips],
                "file": str(out),
            }
        )
        return
    for strip in strips:
        ious = strip.record.ious if strip.record else ()
        print(f"{strip.method.name}: IoU {', '.join(map(percent, ious)) or 'none'}")
    print(f"figure: {out}")


class _Watched:
    """The part of a client that `measure` uses; keeps the mask after every click."""

    def __init__(self, client: Client | PeerClient, masks: list[NDArray[np.uint8]]) -> None:
        self._client, self._masks = client, masks
        self.info = client.info

    def open(self, image: ImageSource) -> _WatchedSession:
        return _WatchedSession(self._client.open(image), self._masks)


class _WatchedSession:
    def __init__(self, session: Any, masks: list[NDArray[np.uint8]]) -> None:
        self._session, self._masks = session, masks

    @property
    def last_reply(self) -> Any:
        return self._session.last_reply

    def click(self, x: float, y: float, positive: bool = True) -> NDArray[np.uint8]:
        mask: NDArray[np.uint8] = self._session.click(x, y, positive)
        self._masks.append(mask)
        return mask
