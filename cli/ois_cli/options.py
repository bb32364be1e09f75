"""Options that several commands share, so that they read and behave alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Engines = Annotated[
    Path | None,
    typer.Option(help="Engine folder. Default: $OIS_ENGINES, else engines/ois-tiny-cpu."),
]
Backend = Annotated[str, typer.Option(help="onnxruntime or openvino.")]
Precision = Annotated[
    str, typer.Option(help="Arithmetic: f32, or bf16 with openvino where the processor has it.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: the backend's choice.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
