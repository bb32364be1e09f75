"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Engines = Annotated[
    Path | None,
    typer.Option(help="Engine folder. Default: $OIS_ENGINES, or engines/ois-photo-cpu."),
]
Backend = Annotated[str, typer.Option(help="onnxruntime, openvino or torch.")]
Device = Annotated[
    str,
    typer.Option(help="cpu, or a GPU with --backend torch or onnxruntime: cuda, cuda:1."),
]
Precision = Annotated[
    str,
    typer.Option(
        help="fp32; with torch also fp16 and bf16, with openvino bf16 if the processor has it; "
        "int8 for engines exported in it."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: the backend's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Token = Annotated[
    str | None,
    typer.Option(envvar="OIS_TOKEN", help="Token for a server that requires one."),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Share the work among workers of Ray: on this machine, or with [b]auto[/b] or "
        "[b]HOST:PORT[/b] on a cluster.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --ray, the number of workers. Default: one per GPU, or one per core.",
        show_default=False,
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="Folder written by [b]ois encode[/b]; its images are not encoded again.",
        show_default=False,
    ),
]

Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without",
        help="Leave out parts, joined by commas: order, object (the attentions), sparse, dense, "
        "order-maps, object-masks, previous-mask, fine-prompts, kept-clicks.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--change",
        help="Set a switch of the network, such as depth_encoder=true or fused_levels=3,4; may be "
        "repeated.",
        show_default=False,
    ),
]


def network_changes(without: list[str] | None, changes: list[str] | None) -> dict[str, Any]:
    """The changes to a network's config that `--without` and `--change` describe.

    Raises `InvalidInput` for an unknown part or switch, and for a switch that both name.
    """
    from ois_client.contract.errors import InvalidInput
    from ois_network.variants import parse_changes, removed

    left_out, others = removed(without or []), parse_changes(changes or [])
    both = sorted(left_out.keys() & others.keys())
    if both:
        raise InvalidInput(
            f"got --without and --change for {', '.join(both)}; expected one of them"
        )
    return left_out | others


def check_workers(ray: str | None, workers: int | None) -> None:
    """Raise `InvalidInput` if there are workers without Ray."""
    if ray is None and workers is not None:
        from ois_client.contract.errors import InvalidInput

        raise InvalidInput(f"got --workers {workers} without --ray; add --ray")
