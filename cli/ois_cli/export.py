"""`ois export`: exports a checkpoint to a folder of engines and compares them with the network."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ois_cli.output import print_json, say

#: A graph in int8 that is less than this many times as fast is not worth its error.
_WORTHWHILE = 1.1


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
            help="Precision of the matrix products: fp32, int8 (cpu), fp16 (cuda, tensorrt) or "
            "bf16 (tensorrt). Sensitive parts of the graphs stay in fp32."
        ),
    ] = "fp32",
    encoder_precision: Annotated[
        str | None,
        typer.Option(
            help="With --target cpu, the precision of the encoder alone: fp32 or int8. Default: "
            "--precision.",
            show_default=False,
        ),
    ] = None,
    decoder_precision: Annotated[
        str | None,
        typer.Option(help="The same for the decoder.", show_default=False),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="For int8: a folder of pictures like the ones to segment; up to 32 are used. "
            "Default: the sample photographs and a few drawn scenes.",
            show_default=False,
        ),
    ] = None,
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
            "whole image. Default: for a trained network on cpu.",
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

    With [b]--precision int8[/b] the convolutions and matrix products run in eight bits. A robot
    user then clicks on objects in photographs and scenes, with the engines in fp32 and in int8.
    Layers that change the masks too much are left as they were, and are named. Run these engines
    with [b]--backend openvino --precision int8[/b]; what is not in eight bits runs in bf16 if the
    processor has it.

    Example: [b]ois export ois-vitb.safetensors --target cuda --precision fp16[/b]
    """
    from ois_export.int8.options import Int8Options
    from ois_export.targets import Target
    from ois_runtime.engines.backends import Precision
    from ois_runtime.shipped import named_checkpoint

    checkpoint = named_checkpoint(checkpoint)
    chosen = Target.parse(target)
    int8 = Int8Options.of(precision, encoder_precision, decoder_precision, calibration)
    chosen_precision = Precision.parse(precision) if int8 is None else Precision.INT8
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
        region = chosen is Target.CPU
    manifest = export_engines(
        checkpoint,
        folder,
        target=chosen,
        precision=chosen_precision,
        cached_kv=cached_kv,
        int8=int8,
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
    for line in _int8_summary(manifest.options):
        print(line)
    if chosen is Target.TENSORRT:
        say(f"next, on the machine with the GPU: ois build {folder}")
    if not manifest.trained:
        say("warning: the checkpoint is untrained, so the engines' masks are meaningless")


def _int8_summary(options: Mapping[str, Any]) -> Iterator[str]:
    """What of each graph runs in eight bits, what does not, and what the robot user found."""
    for role, choice in options.get("int8", {}).items():
        if not isinstance(choice, dict) or "layers" not in choice:
            continue
        text = f"int8, {role}: {choice['quantised']} of {choice['layers']} layers"
        if choice["kept"]:
            text += f"; as they were: {', '.join(choice['kept'])}"
        yield text
        if choice["quantised"]:
            yield f"  {choice['times_as_fast']:.2f} times as fast here as without int8"
            if choice["times_as_fast"] < _WORTHWHILE:
                yield f"  that gains little; --{role}-precision fp32 leaves the {role} as it was"
        gate = choice["gate"]
        if gate and choice["quantised"]:
            yield (
                f"  robot user: IoU after 5 clicks {gate['iou']:.4f} (fp32 "
                f"{gate['reference_iou']:.4f}) and NoC {gate['noc']:.2f} (fp32 "
                f"{gate['reference_noc']:.2f}) on {gate['exact']} exact masks; masks agree to "
                f"{gate['agreement']:.4f} on {gate['objects']} objects"
            )
