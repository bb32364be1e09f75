"""`ois build`: exported graphs become TensorRT engines, on the machine with the GPU."""

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
            "--output", "-o", help="Folder of plans: one folder for each GPU, TensorRT and model."
        ),
    ] = Path("plans"),
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shapes to build for; may be repeated: landscape, portrait, or one network size "
            "as WIDTHxHEIGHT, such as 1022x574. Default: landscape and portrait, all shapes."
        ),
    ] = None,
    objects: Annotated[
        list[str] | None,
        typer.Option(
            help="Objects in one call; may be repeated: a number, or min:opt:max. "
            "Default: 1 and 2:8:32."
        ),
    ] = None,
    workspace: Annotated[
        float | None,
        typer.Option(min=0.1, help="GiB a kernel may use while it runs. Default: TensorRT's."),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="0 builds quickly, 5 tries most. Default: TensorRT's, 3."),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="Measured kernels, kept between builds. Default: a file in OUTPUT."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build although the engines are there already.")
    ] = False,
    print_trtexec: Annotated[
        bool,
        typer.Option(
            "--print-trtexec", help="Only print trtexec command lines; needs no GPU here."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build TensorRT engines for this machine's GPU. [bold]Not run on a GPU yet.[/]

    Takes minutes. The engines' real precision is inspected, and they are compared with the
    graphs they come from at the minimum, optimum and maximum of every profile, before the
    folder appears; it runs only on this kind of GPU with this TensorRT.
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
