"""`ois export`: a checkpoint becomes a folder of engines, proven equal to the network."""

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
        Path, typer.Argument(help="An OIS checkpoint, .safetensors or .pth.", show_default=False)
    ],
    target: Annotated[
        str,
        typer.Option(help="Where the engines run: cpu, cuda (ONNX Runtime) or tensorrt."),
    ] = "cpu",
    precision: Annotated[
        str,
        typer.Option(
            help="What multiplications are made in: fp32; cuda and tensorrt also have fp16, "
            "tensorrt bf16. The graphs are typed, with fp32 where it matters."
        ),
    ] = "fp32",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Engine folder. Default: engines/<checkpoint>-<target>, and -<precision> unless "
            "fp32.",
        ),
    ] = None,
    cached_kv: Annotated[
        bool,
        typer.Option(
            help="Keep projected keys and values with the image: a click computes less, an "
            "image takes about twice the memory."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Turn a checkpoint into an encoder engine and a click engine.

    Both are compared with the PyTorch network on photographs of four shapes, for 1, 4 and 16
    objects; engines that differ are not written, and an older engine folder stays as it was.
    The comparison runs on this machine's CPU. For tensorrt, `ois build` then makes the engines
    on the machine with the GPU and compares them again.
    """
    from ois_export.targets import Target
    from ois_runtime.engines.backends import Precision

    chosen = Target.parse(target)
    arithmetic = Precision.parse(precision)
    chosen.check(arithmetic)
    suffix = chosen.value if arithmetic is Precision.FP32 else f"{chosen.value}-{arithmetic}"
    folder = output or Path("engines") / f"{checkpoint.stem}-{suffix}"
    started = time.monotonic()

    def progress(text: str) -> None:
        say(f"[{time.monotonic() - started:5.1f} s] {text}")

    progress("importing torch and the exporter")
    from ois_export.export import export_engines

    manifest = export_engines(
        checkpoint,
        folder,
        target=chosen,
        precision=arithmetic,
        cached_kv=cached_kv,
        progress=progress,
    )
    if as_json:
        print_json(manifest.to_dict())
        return
    worst = max(case["logit_error"] for case in manifest.parity["cases"])  # type: ignore[call-overload]
    for engine in (manifest.encoder, manifest.decoder):
        print(f"{folder / engine.file}: {engine.bytes / 2**20:.1f} MiB")
    print(f"parity: largest logit error {worst:.1e} of the largest logit")
    if chosen is Target.TENSORRT:
        say(f"next, on the machine with the GPU: ois build {folder}")
    if not manifest.trained:
        say("note: the checkpoint is untrained; the engines are right, their masks mean nothing")
