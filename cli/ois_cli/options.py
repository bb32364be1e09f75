"""Options that several commands share, so that they read and behave alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Engines = Annotated[
    Path | None,
    typer.Option(help="Engine folder. Default: $OIS_ENGINES, else engines/ois-tiny-cpu."),
]
Backend = Annotated[str, typer.Option(help="onnxruntime, openvino or torch.")]
Device = Annotated[
    str,
    typer.Option(help="cpu; or with --backend torch a GPU: cuda, cuda:1. Try --precision fp16."),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Arithmetic: fp32; bf16 with openvino where the processor has it; fp16 and bf16 with "
        "torch."
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: the backend's choice.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Token = Annotated[
    str | None,
    typer.Option(envvar="OIS_TOKEN", help="What a server wants of its clients, if anything."),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="Folder that [b]ois encode[/b] wrote; its images need no encode.",
        show_default=False,
    ),
]
