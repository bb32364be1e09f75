"""Exports a network as two ONNX graphs, for every image shape and any number of objects.

Image sides are symbolic multiples of the patch size. One size is not a linear function of the
grid: the mask head's half-resolution level has `(g - 1) // 2 + 1` rows. torch cannot prove that
such sizes agree, so the check is left to run time.
"""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from ois_client.contract.clicks import PROMPT_NAMES, SLOTS
from ois_client.contract.errors import ExportError
from ois_export.graphs.padding import padded
from ois_export.targets import GraphForm
from ois_network.attention import AttentionOps, TorchAttention, set_attention_ops
from ois_network.network import OISNetwork
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites
from ois_runtime.engines.pair import DECODER_OUTPUTS, ENCODER_INPUTS

# A grid without special cases: more than one attention window of 14x14, and no side that repeats
# another. The exported graph serves every grid, 1x1 included (tested).
_TRACE_GRID = (20, 33)
_TRACE_OBJECTS = 2
#: Metadata of a node: the names of the modules around it, outermost first, and its own name.
_SCOPES = "pkg.torch.onnx.name_scopes"


class EncoderGraph(nn.Module):
    """`ImageEncoder` with a tuple as output, because a graph's outputs are ordered."""

    def __init__(self, encoder: ImageEncoder, names: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.names = names

    def forward(self, image: Tensor, pos_rows: Tensor, pos_cols: Tensor) -> tuple[Tensor, ...]:
        state = self.encoder(image, pos_rows, pos_cols)
        return tuple(state[name] for name in self.names)


def export_graphs(
    network: OISNetwork,
    folder: Path,
    *,
    attention: AttentionOps,
    rewrites: Rewrites,
    form: GraphForm,
) -> dict[str, Path]:
    """Write encoder.onnx and decoder.onnx, fp32, to `folder` and return their paths by role.

    Switches off the gradients of the network's parameters: an attention bias that requires
    gradients cannot be exported. Raises `ExportError` if torch cannot export the network.
    """
    network = network.eval().requires_grad_(False)
    paths = {role: folder / f"{role}.onnx" for role in ("encoder", "decoder")}
    rows, columns = _TRACE_GRID
    patch, table = network.config.patch, network.config.position_table
    image = torch.zeros(rows * patch, columns * patch, 3, dtype=torch.uint8)
    inputs = (image, torch.zeros(rows, table), torch.zeros(columns, table))
    encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
    with torch.no_grad():
        state = encoder(*inputs)
        set_attention_ops(network, attention)
        try:
            with padded(network, form):
                _export_encoder(encoder, inputs, tuple(state), paths["encoder"], form.opset)
                _export_decoder(decoder, state, paths["decoder"], form.opset)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ExportError(
                f"torch {torch.__version__} could not export this network: "
                f"{str(error).strip().splitlines()[0]}. Nothing was written; "
                "`ois doctor` shows the versions this toolkit was tested with"
            ) from error
        finally:
            set_attention_ops(network, TorchAttention())
    return paths


def _export_encoder(
    encoder: ImageEncoder,
    inputs: tuple[Tensor, ...],
    names: tuple[str, ...],
    path: Path,
    opset: int,
) -> None:
    patch = encoder.network.config.patch
    rows, columns = Dim("gh", min=3, max=1024), Dim("gw", min=3, max=1024)
    shapes = {
        "image": {0: patch * rows, 1: patch * columns},
        "pos_rows": {0: rows},
        "pos_cols": {0: columns},
    }
    graph = EncoderGraph(encoder, names)
    _to_onnx(graph, inputs, shapes, path, list(ENCODER_INPUTS), list(names), opset)


def _export_decoder(
    decoder: ClickDecoder, state: dict[str, Tensor], path: Path, opset: int
) -> None:
    rows, columns = (decoder.network.config.coverage_scale * cells for cells in _TRACE_GRID)
    n = _TRACE_OBJECTS
    prompts = (
        torch.zeros(n, SLOTS, 2),
        torch.zeros(n, SLOTS, dtype=torch.int32),
        torch.zeros(n, rows, columns, dtype=torch.uint8),
        torch.zeros(n, dtype=torch.bool),
    )
    auto = Dim.AUTO
    shapes = (
        {name: _free_axes(name) for name in state},
        {0: auto},
        {0: auto},
        {0: auto, 1: auto, 2: auto},
        {0: auto},
    )
    _to_onnx(
        decoder,
        (state, *prompts),
        shapes,
        path,
        [*state, *PROMPT_NAMES],
        list(DECODER_OUTPUTS),
        opset,
    )


def _free_axes(name: str) -> dict[int, Any]:
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
    return {2: auto, 3: auto}  # the levels, (1, f, rows, columns)


def _to_onnx(
    module: nn.Module,
    inputs: tuple[Any, ...],
    shapes: Any,
    path: Path,
    input_names: list[str],
    output_names: list[str],
    opset: int,
) -> None:
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
