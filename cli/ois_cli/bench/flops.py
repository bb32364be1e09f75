"""`ois bench flops`: the arithmetic of an image and of a click."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ois_cli.bench.options import parse_size
from ois_cli.options import AsJson
from ois_cli.output import print_json, progress


def register(parent: typer.Typer) -> None:
    parent.command()(flops)


def flops(
    network: Annotated[str, typer.Option(help="tiny, photo, vits, vitb or vitl.")] = "vitb",
    size: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Network pixels, multiples of the patch.")
    ] = "1022x1022",
    as_json: AsJson = False,
) -> None:
    """Count the FLOPs of an image and of a click, adding one exact rewrite at a time.

    FLOPs are 2 x multiply-adds of matrix products and convolutions. Only shapes are computed, so
    no weights are needed. Example: [b]ois bench flops --network vits --size 1022x574[/b]
    """
    width, height = parse_size(size)
    from ois_network.config import preset
    from ois_network.flops import click_flops, cpu_click_flops, encoder_flops

    config = preset(network)
    with progress("counting"):
        parts = encoder_flops(config, height, width)
        rows = click_flops(config, height, width)
        on_cpus = cpu_click_flops(config, height, width)
        rows += [] if on_cpus is None else [on_cpus]
    if as_json:
        print_json(
            {
                "network": config.name,
                "width": width,
                "height": height,
                "parts": [asdict(part) for part in parts],
                "rewrites": [asdict(row) for row in rows],
            }
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{config.name} at {width}x{height}, one object", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("rewrites, one more per row")
    for column in ("GFLOP/image", "GFLOP/click", "state MiB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.encode_flops / 1e9:.1f}",
            f"{row.click_flops / 1e9:.1f}",
            f"{row.state_bytes / 2**20:.1f}" if row.state_bytes else "",
        )
    console = Console()
    console.print(table)
    console.print(", ".join(f"{part.name}: {part.flops / 1e9:.1f} GFLOP" for part in parts))
