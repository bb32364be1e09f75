"""`ois bench`: measurements and counts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ois_cli.bench import ablation, latency, load, report
from ois_cli.bench.places import RESULTS, check_place, parse_size
from ois_cli.files import write_files
from ois_cli.output import print_json, progress, say, warn

if TYPE_CHECKING:
    from ois_benchmarks.quality.table import Row

_LOG_FORMATS = {".jsonl": "JSON lines"}
_RESULT_FORMATS = {".json": "JSON"}

app = typer.Typer(help="Measure and count.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    ablation.register(app)
    latency.register(app)
    load.register(app)
    report.register(app)
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
    width, height = parse_size(size)
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


@app.command()
def engines(
    network: Annotated[
        str, typer.Option(help="tiny, vits, vitb or vitl, with random weights.")
    ] = "vitb",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Measure this network instead.", show_default=False)
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Network pixels; repeat it. Default: the network's square, and about 16:9.",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Quiet repetitions that count.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Default: benchmarks/results/engines-<network>-cpu.json."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time one network in every engine on this machine: an image, a click, memory."""
    from ois_benchmarks import machine
    from ois_benchmarks.latency.engines import CONTESTANTS, markdown, run, save

    place = output or RESULTS / f"engines-{checkpoint.stem if checkpoint else network}-cpu.json"
    check_place(place, _RESULT_FORMATS, default=output is None)
    sizes = [parse_size(text) for text in size] if size else _sizes(network, checkpoint)
    result = run(
        network=network,
        checkpoint=checkpoint,
        sizes=sizes,
        contestants=list(CONTESTANTS),
        repeats=repeats,
        threads=threads or machine.available_cores(),
        say=say,
    )
    save(result, place)
    if as_json:
        print_json(result)
    else:
        print(markdown(result))
    say(f"written to {place}")


@app.command()
def quality(
    url: Annotated[
        str,
        typer.Argument(
            help="What segments: local:ENGINES, torch:CHECKPOINT, a server's address, or "
            "peer:NAME, a contestant of `ois bench spc`."
        ),
    ] = "local:",
    data: Annotated[
        str,
        typer.Option(
            help="scenes\\[:COUNT] (held-out, procedural), hqseg44k:ROOT (its val half), "
            "davis:ROOT, or folders:IMAGES,MASKS."
        ),
    ] = "scenes",
    clicks: Annotated[int, typer.Option(min=1, max=24, help="Robot clicks an object.")] = 20,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many objects, spread evenly over the data set."),
    ] = None,
    partial: Annotated[
        bool, typer.Option(help="Accept a data set of which folders are missing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Per-object results, .jsonl; .json, .md and .svg appear beside it. A run that "
            "was interrupted goes on from it. Default: a name in benchmarks/results.",
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="The .jsonl of another run on the same objects.", show_default=False),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(help="JSON rows of published results, for the table.", show_default=False),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Of local: onnxruntime or openvino.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of local: f32 or bf16.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of local, torch and peer: CPU threads.")
    ] = None,
    checkout: Annotated[
        Path | None, typer.Option(help="Of peer: your clone of its code.", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Of peer: its trained weights.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Let the robot user of SegNext click, and report NoC, NoF and mIoU with intervals.

    Every image is clicked 20 times at its own size. Failed clicks are counted and listed.
    """
    if output is not None:
        check_place(output, _LOG_FORMATS, default=False)
    from ois_benchmarks.quality.datasets import open_dataset
    from ois_benchmarks.quality.records import LogWriter, read_log
    from ois_benchmarks.quality.result import check_comparable, result
    from ois_benchmarks.quality.run import default_output, header, open_client, run
    from ois_benchmarks.quality.table import read_published

    rows = read_published(published) if published else None
    other = read_log(compare) if compare else None
    dataset = open_dataset(data, limit=limit, partial=partial)
    if other is not None:
        check_comparable(dataset, clicks, other)
    with open_client(
        url,
        backend=backend,
        precision=precision,
        threads=threads,
        checkout=checkout,
        weights=weights,
    ) as client:
        if not client.info.trained:
            warn("the weights are random: the numbers say nothing about the method")
        place = output or default_output(client, dataset, RESULTS)
        say(f"{dataset.label}, {dataset.count} objects; results go to {place}")
        with LogWriter(place, header(client, dataset, clicks)) as writer:
            try:
                run(client, dataset, writer, say)
            except KeyboardInterrupt:
                held = len(writer.log.records)
                say(f"interrupted with {held} objects done; the same command goes on from there")
                raise
            document = result(writer.log, dataset, other)
    table = _write_quality(document, rows, place)
    if as_json:
        print_json(document)
    else:
        print(table, end="")


def _write_quality(document: dict[str, Any], published: list[Row] | None, place: Path) -> str:
    """The summary, table and picture beside the log; returns the table."""
    import json

    from ois_benchmarks.quality.curves import iou_curves
    from ois_benchmarks.quality.result import curves_of
    from ois_benchmarks.quality.table import markdown

    table = markdown(document, published)
    title = f"{document['dataset']['name']}: mean IoU per click"
    contents = {
        ".json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        ".md": table,
        ".svg": iou_curves(curves_of(document), title),
    }
    write_files({place.with_suffix(end): text.encode() for end, text in contents.items()})
    say("written beside it: " + ", ".join(place.with_suffix(end).name for end in contents))
    return table


def _sizes(network: str, checkpoint: Path | None) -> list[tuple[int, int]]:
    """The square of the network's own size, and the nearest to 16:9."""
    from ois_client.contract.geometry import Geometry

    if checkpoint is None:
        from ois_network.config import preset

        config = preset(network)
    else:
        from ois_network.checkpoints.checkpoint import load_checkpoint

        config = load_checkpoint(checkpoint).config
    wide = Geometry.fit(16, 9, longest=config.longest, patch=config.patch)
    return [(config.longest, config.longest), (wide.network_width, wide.network_height)]
