"""Runs exported graphs of every target on this machine's CPU, for the parity gate.

fp32 and fp16 graphs run as they are, in ONNX Runtime. bf16 graphs run as their emulation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from ois_export.graphs.precision import Precision
from ois_export.parity.emulation import emulate_bf16
from ois_runtime.engines.base import EngineOptions, EnginePair, GraphPair
from ois_runtime.engines.manifest import Manifest


@contextmanager
def open_reference(folder: Path) -> Iterator[EnginePair]:
    """The ONNX engines of `folder` on CPU. Raises `EngineError` when they cannot run."""
    from ois_runtime.engines.onnx_runtime import describe, open_graph

    options = EngineOptions()
    manifest = Manifest.load(folder)
    files = [folder / engine.file for engine in (manifest.encoder, manifest.decoder)]
    description = f"{describe(options).rpartition(' ')[0]} on CPU, {manifest.precision} graphs"
    if manifest.precision != Precision.BF16:
        yield GraphPair(manifest, description, *(open_graph(file, options) for file in files))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            onnx.save(emulate_bf16(onnx.load(str(file))), str(Path(scratch) / file.name))
        graphs = (open_graph(Path(scratch) / file.name, options) for file in files)
        yield GraphPair(manifest, f"{description}, emulated", *graphs)
