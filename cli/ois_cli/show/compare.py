"""`ois show compare`: the same click, several methods and the ground truth side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

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
from ois_cli.show.rounds import EXIT_SOME_FAILED
from ois_client.contract.clicks import Click, check_count
from ois_client.contract.errors import InvalidInput, OISError


def register(parent: typer.Typer) -> None:
    parent.command()(compare)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """mask: (H, W), 1 = object; None after a failure. iou: with the true mask, from 0 to 1."""

    mask: NDArray[np.uint8] | None
    iou: float = 0.0
    failure: str = ""


def compare(
    methods: Methods,
    out: Out,
    image: objects.ImageFile = None,
    mask: objects.MaskFile = None,
    data: objects.Data = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--object",
            help="Name of an object in the data set; repeat the option for more rows.",
            show_default=False,
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            "-p",
            metavar="X,Y[,+|-]",
            help="The click, in pixels of the image. Default: the robot's first click, the "
            "deepest point of the object. Several are applied in order.",
            show_default=False,
        ),
    ] = None,
    panel_width: PanelWidth = 320,
    threads: Threads = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Draw the masks of several methods after the same click, beside the true mask.

    Each object is a row: image and click, true mask, then one mask per method with its IoU.

    Example: [b]ois show compare local: peer:grabcut --image photo.jpg --mask true.png -p 300,200
    -o compare.png[/b]
    From a data set: [b]ois show compare OIS=torch:mine.safetensors --data scenes
    --object scene-00003 --object scene-00007 -o compare.png[/b]
    """
    check_figure(out, image, mask)
    chosen = parse_methods(methods)
    subjects = find_subjects(image, mask, data, names or [])
    clicks = [_clicks(subject, point or [], alone=len(subjects) == 1) for subject in subjects]
    answers: list[list[Answer]] = []  # per method, per object
    for method in chosen:
        with progress(f"{method.name} clicks"):
            answers.append(ask(method, subjects, clicks, threads, token))
        for failure in dict.fromkeys(one.failure for one in answers[-1] if one.failure):
            warn(f"{method.name} failed: {failure}")
    everything = [one for of_method in answers for one in of_method]
    if all(one.mask is None for one in everything):
        raise OISError("every method failed, so no figure was written")
    rows = []
    for number, (subject, made) in enumerate(zip(subjects, clicks, strict=True)):
        stage = Stage(subject.pixels, panel_width)
        row = [
            Panel(subject.name, stage.draw(None, made)),
            Panel("ground truth", stage.draw(subject.target.mask)),
        ]
        for method, of_method in zip(chosen, answers, strict=True):
            row.append(_panel(method, of_method[number], stage, made))
        rows.append(row)
    write_figure(out, rows, panel_width=panel_width)
    _report(chosen, subjects, clicks, answers, out, as_json=as_json)
    if any(one.failure for one in everything):
        raise typer.Exit(EXIT_SOME_FAILED)


def ask(
    method: Method,
    subjects: list[Subject],
    clicks: list[list[Click]],
    threads: int | None,
    token: str | None = None,
) -> list[Answer]:
    """Apply each object's clicks. A typed error becomes the answer for the object, or for all of
    them if the method cannot be opened."""
    from ois_network.training.clicks.robot import intersection_over_union

    answers = []
    try:
        with method.open(threads, token) as client:
            if not client.info.trained:
                warn(f"{method.name} has random weights; its masks say nothing about the method")
            for subject, made in zip(subjects, clicks, strict=True):
                try:
                    session = client.open(subject.target.image)
                    for click in made:
                        mask = session.click(click.x, click.y, click.positive)
                except OISError as error:
                    answers.append(Answer(None, failure=f"{error} ({error.code})"))
                else:
                    answers.append(Answer(mask, intersection_over_union(subject.target.mask, mask)))
    except OISError as error:
        return [Answer(None, failure=f"{error} ({error.code})")] * len(subjects)
    return answers


def _clicks(subject: Subject, points: list[str], *, alone: bool) -> list[Click]:
    """The clicks of `--point`, or the robot's first.

    Raises `InvalidInput` for points with several objects, `InvalidClick` and `TooManyClicks`.
    """
    from ois_network.training.clicks.robot import next_robot_click

    true = subject.target.mask
    if not points:
        return [next_robot_click(true, np.zeros_like(true))]
    if not alone:
        raise InvalidInput(
            "got --point with several objects; expected one --object, or no --point: then each "
            "gets the robot's first click"
        )
    clicks = [Click.parse(text) for text in points]
    check_count(clicks)
    for click in clicks:
        click.check(true.shape[1], true.shape[0])
    return clicks


def _panel(method: Method, answer: Answer, stage: Stage, clicks: list[Click]) -> Panel:
    if answer.mask is None:
        return Panel(f"{method.name} failed", stage.blank())
    title = f"{method.name} {percent(answer.iou)}"
    return Panel(title, stage.draw(answer.mask, clicks))


def _report(
    methods: list[Method],
    subjects: list[Subject],
    clicks: list[list[Click]],
    answers: list[list[Answer]],
    out: Path,
    *,
    as_json: bool,
) -> None:
    document: list[dict[str, Any]] = []
    for number, (subject, made) in enumerate(zip(subjects, clicks, strict=True)):
        found = {
            method.name: None if of_method[number].mask is None else round(of_method[number].iou, 5)
            for method, of_method in zip(methods, answers, strict=True)
        }
        points = [[click.x, click.y, click.positive] for click in made]
        document.append({"object": subject.name, "clicks": points, "iou": found})
    if as_json:
        named = {method.name: method.url for method in methods}
        print_json({"methods": named, "objects": document, "file": str(out)})
        return
    for row in document:
        texts = (
            f"{name} {'failed' if iou is None else percent(iou)}"
            for name, iou in row["iou"].items()
        )
        print(f"{row['object']}: IoU {', '.join(texts)}")
    print(f"figure: {out}")
