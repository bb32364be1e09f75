"""`ois checkpoint`: shows a checkpoint, and makes checkpoints from other weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ois_cli.options import Changes, Without, network_changes
from ois_cli.output import print_json, progress, say
from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_network.parameters import ParameterReport

app = typer.Typer(
    help="Show checkpoints, and make checkpoints from other weights.", no_args_is_help=True
)

_Out = Annotated[
    Path, typer.Option("--output", "-o", help="The checkpoint to write (.safetensors).")
]
_Dtype = Annotated[str, typer.Option("--dtype", help="Storage of the weights: fp32 or fp16.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="checkpoint")


@app.command()
def inspect(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint, or ois-photo, the shipped one.", show_default=False),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Count a network without a file: tiny, photo, vits, vitb or vitl."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show a checkpoint's network, its origin, and its parameters per part.

    Every tensor's name, shape and values are checked, as every other command does on loading.

    Example: [b]ois checkpoint inspect ois-photo[/b], which is the shipped one.
    """
    if (checkpoint is None) == (network is None):
        raise InvalidInput(
            "got a checkpoint file and --network, or neither; expected one of them, for example "
            "--network vitb"
        )
    from ois_network.parameters import count_parameters
    from ois_network.variants import differences

    described: dict[str, Any] = {}
    if checkpoint is not None:
        from ois_network.checkpoints.checkpoint import load_checkpoint
        from ois_runtime.shipped import named_checkpoint

        checkpoint = named_checkpoint(checkpoint)
        with progress(f"reading {checkpoint}"):
            loaded = load_checkpoint(checkpoint)
        config = loaded.config
        described = {"path": str(checkpoint), "sha256": loaded.sha256, **loaded.metadata}
        described["trained"] = loaded.trained
        described.pop("config")
    else:
        from ois_network.config import preset

        config = preset(str(network))
    switches = differences(config)
    report = count_parameters(config)
    if as_json:
        parameters = {
            "parts": report.parts,
            "total": report.total,
            "buffers": report.buffers,
            "totals": [asdict(count) for count in report.totals],
        }
        print_json({**described, "config": config.to_dict(), "parameters": parameters})
    else:
        if switches:
            described["unlike the preset"] = ", ".join(f"{k}={v}" for k, v in switches.items())
        _print_report(described, report)


@app.command()
def convert(
    foreign: Annotated[Path, typer.Argument(help="Another implementation's OIS checkpoint.")],
    mapping: Annotated[
        Path,
        typer.Option(
            help="Renaming rules, .toml or .json (see ois_network/checkpoints/mapping.py)."
        ),
    ],
    output: _Out,
    config: Annotated[
        str | None,
        typer.Option(help="tiny, photo, vits, vitb or vitl. Default: the mapping file's."),
    ] = None,
    change: Changes = None,
    dtype: _Dtype = "fp32",
    as_json: _Json = False,
) -> None:
    """Convert another implementation's checkpoint by renaming its tensors.

    If tensors are left over, missing or of the wrong shape, all of them are listed and nothing
    is written. Choices that the paper leaves open cannot be seen in the tensors; set them with
    --change: mask_empty_slots=true if the masks of Equation 5 cover all 24 + 24 slots, empty ones
    included; fusion_order=object_first; image_update=each_block; fused_levels.

    Example: [b]ois checkpoint convert other.pth --mapping rules.toml -o ois.safetensors[/b]
    """
    from ois_network.checkpoints.mapping import convert as convert_file
    from ois_network.config import preset

    chosen = preset(config) if config is not None else None
    with progress(f"converting {foreign}"):
        report = convert_file(
            foreign,
            mapping,
            output,
            config=chosen,
            changes=network_changes(None, change),
            dtype=_stored(dtype),
        )
    if as_json:
        print_json({"path": str(output), "dropped": report.dropped, "reshaped": report.reshaped})
        return
    for names, action in (
        (report.dropped, "dropped as the mapping says"),
        (report.reshaped, "reshaped"),
    ):
        if names:
            say(f"{len(names)} {action}: {', '.join(names)}")
    say(f"wrote {output}")


@app.command()
def assemble(
    depth_anything: Annotated[
        Path, typer.Argument(help="Depth-Anything-V2's depth_anything_v2_vit{s,b,l}.pth.")
    ],
    output: _Out,
    parts: Annotated[
        Path | None,
        typer.Option(help="Trained parts to add. Default: none, which gives an untrained network."),
    ] = None,
    without: Without = None,
    change: Changes = None,
    dtype: _Dtype = "fp32",
    as_json: _Json = False,
) -> None:
    """Join a public Depth-Anything-V2 file and trained parts into one checkpoint.

    With --without or --change the network has other parts than the preset or the trained ones;
    parts that are not in the file are untrained.

    Example: [b]ois checkpoint assemble depth_anything_v2_vitb.pth --parts parts.safetensors
    -o ois-vitb.safetensors[/b]
    """
    from ois_network.checkpoints.depth_anything import assemble as assemble_files

    changes = network_changes(without, change)
    with progress(f"assembling {output}"):
        sha256 = assemble_files(
            depth_anything, parts, output, dtype=_stored(dtype), changes=changes
        )
    if as_json:
        print_json({"path": str(output), "sha256": sha256})
        return
    if parts is None:
        say(
            "warning: without --parts the prompt encoder and the fusion are random; train the "
            "network before you use its masks"
        )
    elif changes:
        shown = ", ".join(f"{name}={value}" for name, value in changes.items())
        say(
            f"warning: changed after training: {shown}; train the network again before you judge "
            "its masks"
        )
    say(f"wrote {output}")


def _stored(dtype: str) -> str:
    if dtype not in ("fp32", "fp16"):
        raise InvalidInput(f"got --dtype {dtype!r}; expected fp32 or fp16")
    return dtype


def _print_report(described: dict[str, Any], report: ParameterReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ois_network.parameters import PAPER_VITB

    console = Console()
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for key, value in described.items():
        shown = value if value not in (None, {}) else "-"
        facts.add_row(key, escape(str(shown)))
    shape = f"{report.config.longest} px, ViT {report.config.embed_dim} x {report.config.depth}"
    facts.add_row("network", f"{report.config.name} ({shape})")
    console.print(facts)

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for part, count in report.parts.items():
        table.add_row(part, f"{count:,}")
    table.add_row("[bold]total[/]", f"[bold]{report.total:,}[/]")
    console.print(table)

    paper = Table(box=None, padding=(0, 2, 0, 0))
    paper.add_column("counted as")
    paper.add_column("millions", justify="right")
    beside_paper = report.config.name == "vitb"
    if beside_paper:
        paper.add_column(f"paper {PAPER_VITB / 1e6:.2f}", justify="right")
    for count_ in report.totals:
        difference = (f"{(count_.parameters - PAPER_VITB) / 1e6:+.2f}",) if beside_paper else ()
        paper.add_row(count_.rule, f"{count_.parameters / 1e6:.2f}", *difference)
    console.print(paper)
