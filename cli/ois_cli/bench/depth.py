"""`ois bench depth`: whether a network's depth has the right order."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ois_cli.batch.progress import counted
from ois_cli.bench.options import open_client
from ois_cli.options import AsJson, Token
from ois_cli.output import print_json
from ois_client.contract.errors import InvalidInput


def register(parent: typer.Typer) -> None:
    parent.command()(depth)


def depth(
    url: Annotated[
        str, typer.Argument(help="local:ENGINES or the address of a server.")
    ] = "local:",
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="IMAGE,DISPARITY: a picture and its true inverse depth (.npy, .npz, picture). "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=0, help="Also this many held-out procedural scenes.")
    ] = 20,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the result as JSON.", show_default=False),
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Compare the order of a network's depth with exact depth.

    The score is the share of random pixel pairs in the right order; 0.5 is chance. Pairs with
    known disparity: scikit-image's motorcycle, OpenCV's aloe.

    Example: [b]ois bench depth --pair motorcycle_left.png,motorcycle_disp.npz[/b]
    """
    from ois_benchmarks import machine
    from ois_benchmarks.quality import depth as measured
    from ois_benchmarks.results import write_result

    files = [text.split(",") for text in pair or []]
    if wrong := [",".join(names) for names in files if len(names) != 2]:
        raise InvalidInput(f"got the pair {wrong[0]!r}; expected IMAGE,DISPARITY")
    scores = []
    with (
        open_client(url, token) as client,
        counted("measuring", len(files) + scenes, "Nothing is written.") as counter,
    ):
        for image, disparity in files:
            truth = measured.read_inverse_depth(Path(disparity))
            scores.append(measured.score(client, Path(image).name, Path(image), truth))
            counter.add()
        drawn = []
        for one in measured.scenes(client, scenes):
            drawn.append(one)
            counter.add()
        network = client.info.network
    if drawn:
        mean = sum(one.agreement for one in drawn) / len(drawn)
        pairs = sum(one.pairs for one in drawn)
        scores.append(measured.DepthScore(f"{len(drawn)} held-out scenes", mean, pairs))
    document = {
        "benchmark": "depth",
        "network": network,
        "machine": machine.describe(),
        "rows": [asdict(one) for one in scores],
    }
    if output is not None:
        write_result(output, document)
    if as_json:
        print_json(document)
        return
    for one in scores:
        print(f"{one.name}: {one.agreement:.3f} of {one.pairs:,} pairs in the right order")
