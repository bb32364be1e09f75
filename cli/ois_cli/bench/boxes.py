"""`ois bench boxes`: how good the first mask is when a box stands for clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.batch.progress import counted
from ois_cli.bench.options import open_client
from ois_cli.options import AsJson, Token
from ois_cli.output import print_json


def register(parent: typer.Typer) -> None:
    parent.command()(boxes)


def boxes(
    url: Annotated[
        str, typer.Argument(help="local:ENGINES or the address of a server.")
    ] = "local:",
    data: Annotated[str, typer.Option(help="Data set, as in [b]ois bench quality[/b].")] = "photos",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the result as JSON.", show_default=False),
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Compare the mask after a box's clicks with the mask after the robot's first click.

    The box is the object's tight box. Its clicks are those of OISPredictor with boxes="clicks":
    positive on the centre, negative just outside the corners.

    Example: [b]ois bench boxes local:engines/ois-photo-cpu[/b]
    """
    from ois_benchmarks.quality.boxes import document, measure
    from ois_benchmarks.quality.datasets import open_dataset
    from ois_benchmarks.results import write_result

    dataset = open_dataset(data)
    with (
        open_client(url, token) as client,
        counted("measuring", dataset.count, "Nothing is written.") as counter,
    ):
        result = document(client, dataset, measure(client, dataset, counter.add))
    if output is not None:
        write_result(output, result)
    if as_json:
        print_json(result)
        return
    for name in ("box", "click"):
        mean = result[f"mean_iou_{name}"]
        print(f"{name}: mean IoU {mean['value']:.3f} ({mean['low']:.3f} to {mean['high']:.3f})")
    beside = result["centre_beside_the_object"]
    if beside["objects"]:
        print(
            f"of {beside['objects']} objects the centre of the box lies beside them: mean IoU "
            f"{beside['mean_iou_box']:.3f}"
        )
