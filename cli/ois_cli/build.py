"""`ois build`: builds TensorRT engines from exported graphs, on the machine with the GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ois_cli.options import AsJson
from ois_cli.output import print_json, say


def register(app: typer.Typer) -> None:
    app.command("build")(build)


def build(
    engines: Annotated[
        Path,
        typer.Argument(
            help="Folder that `ois export --target tensorrt` wrote.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the engines; each GPU, TensorRT version and model gets a folder.",
        ),
    ] = Path("plans"),
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Image shapes: landscape, portrait, or one network size as WIDTHxHEIGHT, such as "
            "1022x574. May be repeated. Default: landscape and portrait, which is all shapes."
        ),
    ] = None,
    objects: Annotated[
        list[str] | None,
        typer.Option(
            help="Objects per call: a number or min:opt:max. May be repeated. Default: 1 and 2:8:8."
        ),
    ] = None,
    workspace: Annotated[
        float | None,
        typer.Option(min=0.1, help="Memory in GiB that a kernel may use. Default: TensorRT's."),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(
            min=0, max=5, help="0 builds fastest, 5 searches most. Default: TensorRT's, 3."
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            help="File with kernel timings, reused by later builds. Default: a file in OUTPUT."
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build even if the engines exist.")
    ] = False,
    print_trtexec: Annotated[
        bool,
        typer.Option("--print-trtexec", help="Only print the trtexec commands; needs no GPU."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build TensorRT engines for this machine's GPU. [bold]Not tested on a GPU yet.[/]

    This takes minutes. Before the folder is written, the precision of every layer is inspected,
    and the engines are compared with their graphs at the minimum, optimum and maximum of every
    profile. The engines run only on this GPU type with this TensorRT version.

    Example: [b]ois build engines/ois-tiny-tensorrt-fp16 --shape landscape --objects 1[/b]
    """
    from ois_export.tensorrt.build import Ranges, build_engines, trtexec_commands
    from ois_export.tensorrt.plan import BuildOptions
    from ois_runtime.engines.manifest import Manifest

    defaults = Ranges()
    ranges = Ranges(
        tuple(shape) if shape else defaults.shapes, tuple(objects) if objects else defaults.objects
    )
    options = BuildOptions(
        workspace_bytes=None if workspace is None else int(workspace * 2**30),
        optimization_level=optimization_level,
        timing_cache=timing_cache,
    )
    if print_trtexec:
        print(trtexec_commands(engines, output, ranges, options))
        return
    started = time.monotonic()

    def progress(text: str) -> None:
        say(f"[{time.monotonic() - started:5.1f} s] {text}")

    folder = build_engines(
        engines, output, ranges=ranges, options=options, rebuild=rebuild, progress=progress
    )
    manifest = Manifest.load(folder)
    if as_json:
        print_json({"folder": str(folder), "manifest": manifest.to_dict()})
        return
    for engine in (manifest.encoder, manifest.decoder):
        print(f"{folder / engine.file}: {engine.bytes / 2**20:.1f} MiB")
