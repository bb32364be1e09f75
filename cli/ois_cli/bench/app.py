"""`ois bench`: the application that holds its commands."""

from __future__ import annotations

import typer

from ois_cli.bench import (
    ablation,
    batch,
    boxes,
    capacity,
    chaos,
    depth,
    engines,
    flops,
    gpu,
    latency,
    load,
    progressive,
    quality,
    region,
    report,
    soak,
)

app = typer.Typer(
    help="Measure speed and quality, count FLOPs, and report the results.", no_args_is_help=True
)


def register(parent: typer.Typer) -> None:
    for group in (
        latency,
        load,
        batch,
        chaos,
        soak,
        capacity,
        quality,
        boxes,
        depth,
        report,
        engines,
        region,
        progressive,
        flops,
        ablation,
        gpu,
    ):
        group.register(app)
    parent.add_typer(app, name="bench")
