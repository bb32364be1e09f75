"""Writes a PyTorch module as an ONNX file."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from ois_client.contract.errors import ExportError

#: Metadata of a node: the names of the modules around it, outermost first, and its own name.
_SCOPES = "pkg.torch.onnx.name_scopes"


def write_onnx(
    module: nn.Module,
    inputs: tuple[Any, ...],
    shapes: Any,
    path: Path,
    input_names: list[str],
    output_names: list[str],
    opset: int,
) -> None:
    """Write `module`, called with `inputs`, to `path`. shapes: of `torch.export`'s dynamic_shapes.

    Raises `ExportError` or a `RuntimeError` of torch if it cannot be exported.
    """
    with _quiet():
        program = torch.export.export(
            module,
            inputs,
            dynamic_shapes=shapes,
            strict=False,
            # Check at run time that two sizes are equal, instead of failing here.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        exported = torch.onnx.export(
            program,
            (),
            opset_version=opset,
            input_names=input_names,
            output_names=output_names,
            dynamo=True,
            verbose=False,
        )
    if exported is None:
        raise ExportError(
            "torch.onnx.export returned no graph. Check that onnxscript is installed: ois doctor"
        )
    for node in exported.model.graph.all_nodes():
        # Profilers show a node's name, so it has to say which part of the network the node is.
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        if len(scopes) > 1 and not scopes[-2].startswith("_"):  # "_empty_...": not a module
            node.name = f"{scopes[-2]}/{node.name}"
        node.metadata_props.clear()  # source paths of this machine, among others
    exported.save(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings about its own internals."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def free_axes(name: str) -> dict[int, Any]:
    """The axes of a state tensor that depend on the image's shape (see the table in `split.py`)."""
    auto = Dim.AUTO
    if name in ("depth_min", "depth_max"):
        return {}
    if name in ("depth", "grid_depth"):
        return {1: auto, 2: auto}
    if name in ("features", "position"):
        return {1: auto}
    if name == "keys_values":
        return {2: auto}
    return {2: auto, 3: auto}  # maps, (1, f, rows, columns)
