"""`ois bench progressive`: the time to a coarse mask and to the full one, and their IoU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.bench.options import RESULT_FORMATS, RESULTS, check_place, print_result
from ois_cli.options import AsJson, Engines
from ois_cli.output import say


def register(parent: typer.Typer) -> None:
    parent.command()(progressive)


def progressive(
    engines: Engines = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Measure this network with random weights instead: photo, vits, vitb, vitl.",
            show_default=False,
        ),
    ] = None,
    clicks: Annotated[int, typer.Option(min=1, max=24, help="Robot clicks per object.")] = 5,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only this many of the objects, spread evenly."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Default: benchmarks/results/progressive-<network>-cpu.json."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure clicks that show a coarse mask first, on the photographs of this package.

    The robot user clicks in this process and through an embedded server on loopback: without a
    coarse mask, with one after the usual wait, and with one requested at once. Also compares the
    coarse masks with the full ones. Needs [b]pip install 'ois-deploy\\[serve]'[/b]. Takes some
    minutes.
    """
    from ois_benchmarks.latency.progressive import run, tables_of
    from ois_benchmarks.results import write_result
    from ois_runtime.engines.local import default_engine_folder

    folder = engines or default_engine_folder()
    name = network or folder.name.removeprefix("ois-").removesuffix("-cpu")
    place = output or RESULTS / f"progressive-{name}-cpu.json"
    check_place(place, RESULT_FORMATS, default=output is None)
    result = run(folder, network=network, clicks=clicks, limit=limit, say=say)
    write_result(place, result)
    text = "\n".join(table.markdown() for table in tables_of(result))
    print_result(result, text, place, as_json=as_json)
