"""`ois show`: the application that holds its commands."""

from __future__ import annotations

import typer

from ois_cli.show import attention, compare, rounds

app = typer.Typer(
    help="Draw figures: attention with and without order maps, rounds of clicks, methods side by "
    "side.",
    no_args_is_help=True,
)


def register(parent: typer.Typer) -> None:
    for command in (attention, rounds, compare):
        command.register(app)
    parent.add_typer(app, name="show")
