"""Options and helpers that several commands of `ois bench` share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ois_cli.files import check_output, make_folder
from ois_cli.output import print_json, say
from ois_client.contract.errors import InvalidInput
from ois_client.transports.address import is_server

if TYPE_CHECKING:
    from ois_client.sessions.client import Client

RESULTS = Path("benchmarks/results")
RESULT_FORMATS = {".json": "JSON"}

Network = Annotated[
    str, typer.Option(help="OIS network with random weights: tiny, photo, vits, vitb or vitl.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="OIS checkpoint to measure instead of --network.", show_default=False),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: all cores.", show_default=False)
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the result here, as JSON.")
]


def open_client(url: str, token: str | None) -> Client:
    """Raises what `Client` raises. token: for a server; it may come from the environment, so
    engines in this process ignore it."""
    from ois_client.sessions.client import Client

    return Client(url, token=token) if is_server(url) else Client(url)


def check_place(place: Path, formats: Mapping[str, str], *, default: bool) -> None:
    """Check the output before any work.

    default: it is the default place, whose folder is made; any other folder must exist. Raises
    `InvalidInput` for an unknown suffix, `OutputError` if the folder is missing or not writable.
    """
    if default:
        make_folder(place.parent)
    check_output(place, dict(formats))


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from WIDTHxHEIGHT. Raises `InvalidInput` for anything else."""
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    if match is None:
        raise InvalidInput(f"got the size {text!r}; expected WIDTHxHEIGHT, for example 1022x574")
    return int(match[1]), int(match[2])


def print_result(
    document: Mapping[str, Any], text: str, place: Path | None, *, as_json: bool
) -> None:
    """Print a result as JSON or as text, and say where it was written."""
    if as_json:
        print_json(dict(document))
    else:
        print(text, end="" if text.endswith("\n") else "\n")
    if place is not None:
        say(f"written to {place}")
