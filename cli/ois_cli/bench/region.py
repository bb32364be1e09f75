"""`ois bench region`: milliseconds per click over the object's share of the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.bench.options import (
    RESULT_FORMATS,
    RESULTS,
    Checkpoint,
    Network,
    Threads,
    check_place,
    parse_size,
    print_result,
)
from ois_cli.options import AsJson
from ois_cli.output import say
from ois_client.contract.errors import InvalidInput


def register(parent: typer.Typer) -> None:
    parent.command()(region)


def region(
    network: Network = "vitb",
    checkpoint: Checkpoint = None,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Picture size.")] = "854x480",
    engine: Annotated[
        list[str] | None,
        typer.Option(help="openvino-bf16, openvino-fp32, onnxruntime-fp32; may be repeated."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="The box's share of the picture, 0 to 1; may be repeated."),
    ] = None,
    peers: Annotated[
        Path | None,
        typer.Option(help="A result of `ois bench spc`; its contestants are drawn as flat lines."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Undisturbed clicks per point.")] = 15,
    threads: Threads = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Default: benchmarks/results/region-<network>-cpu.json."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a click that decodes only a part of the picture, for boxes of several sizes.

    Compares it with the same engine decoding the whole picture, and draws the curve beside the JSON
    file, as SVG. Random weights are enough: the box is given, not found. What the choice of the box
    costs in quality is measured by `ois export`. Example: [b]ois bench region --peers
    benchmarks/results/spc-vitb-cpu.json[/b]
    """
    from ois_benchmarks import machine
    from ois_benchmarks.latency.region import ENGINES, SHARES, run, svg_of, table_of
    from ois_benchmarks.results import write_result

    place = output or RESULTS / f"region-{checkpoint.stem if checkpoint else network}-cpu.json"
    check_place(place, RESULT_FORMATS, default=output is None)
    engines = engine or list(ENGINES)
    unknown = sorted(set(engines) - set(ENGINES))
    if unknown:
        raise InvalidInput(f"got the engine {unknown[0]!r}; expected some of {', '.join(ENGINES)}")
    shares = share or list(SHARES)
    if not all(0 < each <= 1 for each in shares):
        raise InvalidInput(f"got the shares {shares}; expected numbers above 0, at most 1")
    if checkpoint is not None and not checkpoint.is_file():
        raise InvalidInput(f"no checkpoint at {checkpoint}; expected a .safetensors file")
    result = run(
        network=network,
        checkpoint=checkpoint,
        size=parse_size(size),
        engines=engines,
        shares=sorted(shares),
        repeats=repeats,
        threads=threads or machine.available_cores(),
        peers=peers,
        say=say,
    )
    write_result(place, result)
    place.with_suffix(".svg").write_text(svg_of(result), encoding="utf-8")
    print_result(result, table_of(result).markdown(), place, as_json=as_json)
    if all("failed" in row for row in result["rows"]):
        say("nothing was measured; each row gives the reason")
        raise typer.Exit(1)
