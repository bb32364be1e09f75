"""`ois bench`: measurements and counts."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

import typer

from ois_cli.output import print_json, progress
from ois_client.errors import InvalidInput

app = typer.Typer(help="Measure and count.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="bench")


@app.command()
def flops(
    network: Annotated[str, typer.Option(help="tiny, vits, vitb or vitl.")] = "vitb",
    size: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Network pixels, multiples of the patch.")
    ] = "1022x1022",
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Count what an image and a click cost, one exact rewrite after the other.

    Nothing is run on numbers: FLOPs are 2 x multiply-adds of matrix products and convolutions.
    """
    width, height = _parse_size(size)
    from ois_network.config import preset
    from ois_network.flops import click_flops, encoder_flops

    config = preset(network)
    with progress("counting"):
        parts = encoder_flops(config, height, width)
        rows = click_flops(config, height, width)
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
    table.add_column("rewrites, one more a row")
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


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    if match is None:
        raise InvalidInput(f"got the size {text!r}; expected WIDTHxHEIGHT, for example 1022x574")
    return int(match[1]), int(match[2])
