"""`ois export`: exports a checkpoint to a folder of engines and compares them with the network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ois_cli.output import print_json, say


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="An OIS checkpoint, .safetensors or .pth. Default: the shipped ois-photo.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="Where the engines run: cpu or cuda (ONNX Runtime), or tensorrt."),
    ] = "cpu",
    precision: Annotated[
        str,
        typer.Option(
            help="Precision of the matrix products: fp32, fp16 (cuda, tensorrt) or bf16 "
            "(tensorrt). Sensitive parts of the graphs stay in fp32."
        ),
    ] = "fp32",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Engine folder. Default: engines/<checkpoint>-<target>, with -<precision> unless "
            "it is fp32.",
        ),
    ] = None,
    cached_kv: Annotated[
        bool,
        typer.Option(
            help="Store the projected keys and values per image: clicks compute less, and an image "
            "needs about twice the memory."
        ),
    ] = False,
    region: Annotated[
        bool | None,
        typer.Option(
            "--region/--no-region",
            help="Also write the decoder in parts, so that a click decodes only where its mask can "
            "change, and compare these masks with whole ones. If they differ, clicks decode the "
            "whole image. Default: for a trained network on cpu in fp32.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export a checkpoint to an encoder engine and a decoder engine.

    Both are compared with the PyTorch network on this machine's CPU, with photographs of four
    shapes and 1, 4 and 16 objects. If they differ, nothing is written and an existing engine
    folder stays unchanged. For tensorrt, [b]ois build[/b] then builds the engines on the machine
    with the GPU and compares them again.

    Example: [b]ois export ois-vitb.safetensors --target cuda --precision fp16[/b]
    """
    from ois_export.targets import Target
    from ois_runtime.engines.backends import Precision
    from ois_runtime.shipped import named_checkpoint

    checkpoint = named_checkpoint(checkpoint)
    chosen = Target.parse(target)
    chosen_precision = Precision.parse(precision)
    chosen.check(chosen_precision)
    suffix = chosen.value
    if chosen_precision is not Precision.FP32:
        suffix += f"-{chosen_precision}"
    folder = output or Path("engines") / f"{checkpoint.stem}-{suffix}"
    started = time.monotonic()

    def progress(text: str) -> None:
        say(f"[{time.monotonic() - started:5.1f} s] {text}")

    progress("importing torch and the exporter")
    from ois_export.export import export_engines
    from ois_export.region.parts import summary

    if region is None:
        region = chosen is Target.CPU and chosen_precision is Precision.FP32
    manifest = export_engines(
        checkpoint,
        folder,
        target=chosen,
        precision=chosen_precision,
        cached_kv=cached_kv,
        region=region,
        progress=progress,
    )
    if as_json:
        print_json(manifest.to_dict())
        return
    worst = max(case["logit_error"] for case in manifest.parity["cases"])  # type: ignore[call-overload]
    for engine in manifest.files:
        print(f"{folder / engine.file}: {engine.bytes / 2**20:.1f} MiB")
    print(f"parity: largest logit error {worst:.1e} of the largest logit")
    if manifest.region is not None:
        print(f"regions: {summary(manifest)}")
    if chosen is Target.TENSORRT:
        say(f"next, on the machine with the GPU: ois build {folder}")
    if not manifest.trained:
        say("warning: the checkpoint is untrained, so the engines' masks are meaningless")
