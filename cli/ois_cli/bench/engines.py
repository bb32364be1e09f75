"""`ois bench engines`, `overhead`, `paths`, `cold-start`, `prepare`: our own engines and server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.bench.options import (
    RESULT_FORMATS,
    RESULTS,
    Checkpoint,
    Network,
    Output,
    Threads,
    check_place,
    parse_size,
    print_result,
)
from ois_cli.files import make_folder
from ois_cli.options import AsJson, Engines
from ois_cli.output import say
from ois_client.contract.errors import InvalidInput


def register(parent: typer.Typer) -> None:
    parent.command()(engines)
    parent.command()(overhead)
    parent.command()(paths)
    parent.command("cold-start")(cold_start)
    parent.command()(prepare)


def engines(
    network: Network = "vitb",
    checkpoint: Checkpoint = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Network pixels; may be repeated. Default: the network's square, and about 16:9.",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Undisturbed repetitions to collect.")] = 5,
    threads: Threads = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Default: benchmarks/results/engines-<network>-cpu.json."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the CPU engines of one network: time per image and per click, memory, masks.

    Runs PyTorch, ONNX Runtime and OpenVINO one after another, each in its own process.
    Example: [b]ois bench engines --checkpoint mine.safetensors[/b]
    """
    from ois_benchmarks import machine
    from ois_benchmarks.latency.engines import CONTESTANTS, run, table_of
    from ois_benchmarks.results import write_result

    place = output or RESULTS / f"engines-{checkpoint.stem if checkpoint else network}-cpu.json"
    check_place(place, RESULT_FORMATS, default=output is None)
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
    write_result(place, result)
    print_result(result, table_of(result).markdown(), place, as_json=as_json)


def overhead(
    engines: Engines = None,
    clicks: Annotated[int, typer.Option(help="Clicks by each client.")] = 300,
    in_a_row: Annotated[
        int, typer.Option("--in-a-row", help="Clicks before the next client's turn.")
    ] = 10,
    output: Annotated[Path, typer.Option("--output", "-o", help="The result, as JSON.")] = RESULTS
    / "serving-overhead-cpu.json",
    as_json: AsJson = False,
) -> None:
    """Measure what a server adds to a click, over gRPC and over HTTP.

    The same engines answer in this process and behind an embedded server on loopback; the clients
    take turns. Needs [b]pip install 'ois-deploy\\[serve]'[/b]. Takes about a minute.
    """
    check_place(output, RESULT_FORMATS, default=output.parent == RESULTS)
    from ois_benchmarks.latency.overhead import run, tables_of
    from ois_benchmarks.results import write_result
    from ois_runtime.engines.local import default_engine_folder

    folder = engines or default_engine_folder()
    result = run(folder, clicks=clicks, in_a_row=in_a_row, say=say)
    write_result(output, result)
    text = "\n".join(table.markdown() for table in tables_of(result))
    print_result(result, text, output, as_json=as_json)


def paths(
    engines: Engines = None,
    clicks: Annotated[int, typer.Option(help="Clicks on an open image by each path.")] = 100,
    images: Annotated[int, typer.Option(help="New images answered by each path.")] = 30,
    in_a_row: Annotated[
        int, typer.Option("--in-a-row", help="Clicks before the next path's turn.")
    ] = 5,
    output: Annotated[Path, typer.Option("--output", "-o", help="The result, as JSON.")] = RESULTS
    / "serving-paths-cpu.json",
    as_json: AsJson = False,
) -> None:
    r"""Compare the ways in which a server answers: time per click and per image, and memory.

    Features kept by ois_segment, with its own decoder and with Triton's, and the stateless ensemble
    ois_oneshot. Needs [b]pip install 'ois-deploy\[serve]'[/b]. Takes about two minutes.
    Example: [b]ois bench paths --engines engines/ois-tiny-cpu[/b]
    """
    check_place(output, RESULT_FORMATS, default=output.parent == RESULTS)
    from ois_benchmarks.latency.paths import run, tables_of
    from ois_benchmarks.results import write_result
    from ois_runtime.engines.local import default_engine_folder

    folder = engines or default_engine_folder()
    result = run(folder, clicks=clicks, images=images, in_a_row=in_a_row, say=say)
    write_result(output, result)
    text = "\n".join(table.markdown() for table in tables_of(result))
    print_result(result, text, output, as_json=as_json)


def cold_start(
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL]...",
            help="Addresses of engines, such as local:FOLDER or local:?backend=torch. Default: "
            "every backend.",
            show_default=False,
        ),
    ] = None,
    photo: Annotated[
        Path | None,
        typer.Option(help="Image to click on. Default: a shipped photograph.", show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Processes per address.")] = 5,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Measure the time from the start of a process to its first mask.

    Starts new Python processes, each of which loads the engines, opens an image and clicks once.
    Exits with 1 if no address could be measured. Example: [b]ois bench cold-start local:[/b]
    """
    from ois_benchmarks.latency.cold_start import URLS, default_photo, document_of, run, table_of
    from ois_benchmarks.results import write_result

    picture = photo or default_photo()
    if repeats < 1 or not picture.is_file():
        raise InvalidInput(
            f"got --repeats {repeats} and --photo {picture}; expected at least 1 and a file"
        )
    if output is not None:
        check_place(output, RESULT_FORMATS, default=False)
    rows = []
    for row in run(urls or list(URLS), picture, repeats):
        rows.append(row)
        if output is not None:  # after every row, so that a time limit loses only one
            write_result(output, document_of(rows, repeats))
    document = document_of(rows, repeats)
    print_result(document, table_of(rows).markdown(), output, as_json=as_json)
    if all("failed" in row for row in rows):
        say("nothing was measured; each row gives the reason")
        raise typer.Exit(1)


def prepare(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="OIS checkpoint to use instead of --network.", show_default=False),
    ] = None,
    network: Network = "vitb",
    checkpoint_only: Annotated[
        bool, typer.Option("--checkpoint-only", help="Do not export engines.")
    ] = False,
    target: Annotated[
        str, typer.Option(help="Where the engines run: cpu, cuda or tensorrt.")
    ] = "cpu",
    precision: Annotated[
        str, typer.Option(help="Precision of the engines: fp32, fp16, bf16 or int8.")
    ] = "fp32",
) -> None:
    """Write a network and its engines for measuring, without checking their masks.

    For networks with random weights, which the parity check of [b]ois export[/b] does not fit. Do
    not deploy the result. Example: [b]ois bench prepare /tmp/vitb --target tensorrt[/b]
    """
    from ois_benchmarks.contestants.prepared import write_network

    make_folder(folder)
    write_network(
        folder,
        network,
        checkpoint,
        exported=not checkpoint_only,
        target=target,
        precision=precision,
    )
    say(f"written to {folder}")


def _sizes(network: str, checkpoint: Path | None) -> list[tuple[int, int]]:
    """The square of the network's own size, and the nearest size to 16:9."""

    if checkpoint is None:
        from ois_network.config import preset

        config = preset(network)
    else:
        from ois_network.checkpoints.checkpoint import load_checkpoint

        config = load_checkpoint(checkpoint).config
    wide = config.fit(16, 9)
    return [(config.longest, config.longest), (wide.network_width, wide.network_height)]
