"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Engines = Annotated[
    Path | None,
    typer.Option(help="Engine folder. Default: $OIS_ENGINES, or engines/ois-photo-cpu."),
]
Backend = Annotated[str, typer.Option(help="onnxruntime, openvino or torch.")]
Device = Annotated[
    str,
    typer.Option(help="cpu, or a GPU with --backend torch: cuda, cuda:1. On a GPU, try fp16."),
]
Precision = Annotated[
    str,
    typer.Option(
        help="fp32; with torch also fp16 and bf16, with openvino bf16 if the processor has it."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: the backend's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Token = Annotated[
    str | None,
    typer.Option(envvar="OIS_TOKEN", help="Token for a server that requires one."),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="Folder written by [b]ois encode[/b]; its images are not encoded again.",
        show_default=False,
    ),
]
