"""Measurements on a GPU: `ois bench gpu-engine`, `gpu-profile`, `gpu-compiled`, `kernels`,
`ceilings`, `layers` and `plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.bench.options import (
    RESULT_FORMATS,
    Checkpoint,
    Network,
    Output,
    check_place,
    parse_size,
    print_result,
)
from ois_cli.options import AsJson
from ois_cli.output import say
from ois_client.contract.errors import EngineError


def register(parent: typer.Typer) -> None:
    parent.command("gpu-engine")(gpu_engine)
    parent.command("gpu-profile")(gpu_profile)
    parent.command("gpu-compiled")(gpu_compiled)
    parent.command()(kernels)
    parent.command()(ceilings)
    parent.command()(layers)
    parent.command()(plugin)


NetworkSize = Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Network pixels.")]
HalfOrFull = Annotated[str, typer.Option(help="fp32, fp16 or bf16.")]


def gpu_engine(
    network: Network = "vitb",
    checkpoint: Checkpoint = None,
    size: NetworkSize = "1022x1022",
    precision: HalfOrFull = "fp16",
    objects: Annotated[
        list[int] | None,
        typer.Option(
            help="Objects per click; may be repeated. Default: 1, 2, 4, 8, 16, 32 and 64.",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Replays of each CUDA graph.")] = 50,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time the PyTorch engine on a GPU by CUDA events: encode, clicks, masks, new image shapes.

    Also shows how close each graph is to the limits of the GPU. Example: [b]ois bench gpu-engine
    --precision bf16 --objects 1 --objects 8[/b]  Not run on a GPU yet.
    """
    network_size = parse_size(size)
    if output is not None:
        check_place(output, RESULT_FORMATS, default=False)
    from ois_benchmarks.gpu.engine import BUCKETS, run, tables_of

    result = run(
        network=network,
        checkpoint=checkpoint,
        size=network_size,
        precision=precision,
        objects=objects or BUCKETS,
        repeats=repeats,
        output=output,
        say=say,
    )
    text = "\n".join(table.markdown() for table in tables_of(result.rows, result.shapes))
    print_result(result.to_dict(), text, output, as_json=as_json)
    if result.stopped:
        raise EngineError(f"stopped after {len(result.rows)} rows: {result.stopped}")


def gpu_profile(
    network: Network = "vitb",
    checkpoint: Checkpoint = None,
    size: NetworkSize = "1022x1022",
    precision: HalfOrFull = "fp16",
    output: Output = None,
) -> None:
    """List the kernels of one encode and one click on a GPU, the longest first.

    Example: [b]ois bench gpu-profile --output profile.json[/b]  Not run on a GPU yet.
    """
    network_size = parse_size(size)
    if output is not None:
        check_place(output, RESULT_FORMATS, default=False)
    from ois_benchmarks.gpu.profile import run, tables_of

    found = run(
        network=network,
        checkpoint=checkpoint,
        size=network_size,
        precision=precision,
        output=output,
    )
    print("\n".join(table.markdown() for table in tables_of(found)), end="")


def gpu_compiled(
    network: Network = "vitb",
    checkpoint: Checkpoint = None,
    size: NetworkSize = "1022x1022",
    precision: HalfOrFull = "fp16",
    repeats: Annotated[int, typer.Option(min=1, help="Replays of each CUDA graph.")] = 50,
    output: Output = None,
) -> None:
    """Compare both halves of the network with the same halves compiled by torch.compile, on a GPU.

    Example: [b]ois bench gpu-compiled --output compiled.json[/b]  Not run on a GPU yet.
    """
    network_size = parse_size(size)
    if output is not None:
        check_place(output, RESULT_FORMATS, default=False)
    from ois_benchmarks.gpu.compiled import run, table_of

    rows = run(
        network=network,
        checkpoint=checkpoint,
        size=network_size,
        precision=precision,
        repeats=repeats,
        output=output,
        say=say,
    )
    print(table_of(rows).markdown(), end="")


def kernels(
    dtype: Annotated[str, typer.Option(help="float16 or bfloat16.")] = "float16",
    objects: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Objects per click; may be repeated. Default: 1, 2, 4, 8, 16, 32 and 64.",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Replays of each CUDA graph.")] = 100,
    output: Output = None,
    write: Annotated[
        bool, typer.Option("--write", help="Let this measurement decide what this GPU runs.")
    ] = False,
) -> None:
    """Compare our masked-attention kernels with PyTorch's attention on a GPU.

    Checks parity first, then times each size. With [b]--write[/b], OIS uses our kernels on this GPU
    for the sizes at which they are faster. Needs [b]pip install 'ois-deploy\\[kernels]'[/b]. Not
    run on a GPU yet.
    """
    if output is not None:
        check_place(output, RESULT_FORMATS, default=False)
    from ois_benchmarks.gpu.kernels import OBJECTS, run, table_of

    rows = run(dtype, objects or OBJECTS, repeats, output, write=write, say=say)
    print(table_of(rows).markdown(), end="")
    if output is not None:
        say(f"written to {output}")


def ceilings(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="JSON file; put it beside the results that `ois bench report` reads.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Measure the peak arithmetic and memory rates of a GPU, for the roofline of the report.

    Example: [b]ois bench ceilings --output benchmarks/results/gpu-ceilings.json[/b]  Not run on a
    GPU yet.
    """
    check_place(output, RESULT_FORMATS, default=False)
    from ois_benchmarks.gpu.ceilings import measure, summary
    from ois_benchmarks.results import write_result

    found = measure()
    write_result(output, found.to_dict())
    print_result(found.to_dict(), summary(found), output, as_json=as_json)


def layers(
    engines: Annotated[
        Path, typer.Argument(help="Folder of `ois export --target tensorrt`.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder for the two JSON files.", show_default=False)
    ],
    shape: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Network pixels.")
    ] = "1022x1022",
    objects: Annotated[int, typer.Option(min=1, help="Objects per click.")] = 1,
) -> None:
    """Profile the layers of a click in TensorRT with NVIDIA's trtexec.

    Builds the engine as [b]ois build[/b] does and writes trtexec-profile.json and
    trtexec-layers.json, which [b]ois bench plugin[/b] reads. Not run on a GPU yet.
    """
    from ois_benchmarks.gpu.layers import run

    print(run(engines, output, shape, objects))
    say(f"written to {output}")


def plugin(
    profile: Annotated[
        Path,
        typer.Argument(help="trtexec-profile.json of `ois bench layers`.", show_default=False),
    ],
    kernels: Annotated[
        Path, typer.Argument(help="Result of `ois bench kernels`.", show_default=False)
    ],
    objects: Annotated[int, typer.Option(min=1, help="Objects per click, as profiled.")] = 1,
    keys: Annotated[int, typer.Option(min=1, help="Patches of the image, as profiled.")] = 5329,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Regular expression of the attention's layers. Default: as exported graphs name "
            "them.",
            show_default=False,
        ),
    ] = None,
    layer_info: Annotated[
        Path | None,
        typer.Option(
            "--layer-info",
            help="trtexec-layers.json of `ois bench layers`, for layers that TensorRT fused.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Decide whether TensorRT needs a plugin for the masked attention.

    Compares the time of the attention's layers in TensorRT with that of our kernels:

        ois bench layers ENGINES . --shape 1022x1022 --objects 1
        ois bench kernels --output kernels.json
        ois bench plugin trtexec-profile.json kernels.json --layer-info trtexec-layers.json
    """
    from ois_benchmarks.gpu.plugin import LAYERS, decide
    from ois_benchmarks.results import read_json

    verdict = decide(
        read_json(profile),
        read_json(kernels),
        objects=objects,
        keys=keys,
        layers=LAYERS if layers is None else layers,
        layer_info=read_json(layer_info) if layer_info else None,
    )
    print(verdict.sentence())
