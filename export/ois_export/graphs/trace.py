"""Exports a network as two ONNX graphs, for every image shape and any number of objects.

Image sides are symbolic multiples of the patch size. One size is not a linear function of the
grid: the mask head's half-resolution level has `(g - 1) // 2 + 1` rows. torch cannot prove that
such sizes agree, so the check is left to run time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from ois_client.contract.clicks import PROMPT_NAMES, SLOTS, SLOTS_PER_SIGN
from ois_client.contract.errors import ExportError
from ois_export.graphs.onnx_file import free_axes, write_onnx
from ois_export.graphs.padding import padded
from ois_export.region.graphs import export_region_graphs
from ois_export.targets import GraphForm
from ois_network.attention import AttentionOps, TorchAttention, set_attention_ops
from ois_network.config import NetworkConfig
from ois_network.network import OISNetwork
from ois_network.region import CoarseHead
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites
from ois_runtime.engines.pair import DECODER_OUTPUTS, ENCODER_INPUTS

# A grid without special cases: more than one attention window of 14x14, and no side that repeats
# another. The exported graph serves every grid, 1x1 included (tested).
_TRACE_GRID = (20, 33)
_TRACE_OBJECTS = 2
#: Slots per sign, if their number is free.
_TRACE_SLOTS = 11


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
    coarse: CoarseHead | None = None,
) -> dict[str, Path]:
    """Write encoder.onnx and decoder.onnx, fp32, to `folder` and return their paths by role.

    coarse: also write the decoder in parts that decode a region (`ois_export.region.graphs`).
    Switches off the gradients of the network's parameters: an attention bias that requires
    gradients cannot be exported. Raises `ExportError` if torch cannot export the network.
    """
    network = network.eval().requires_grad_(False)
    paths = {role: folder / f"{role}.onnx" for role in ("encoder", "decoder")}
    inputs = _images(network.config)
    encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
    with torch.no_grad():
        state = encoder(*inputs)
        set_attention_ops(network, attention)
        try:
            with padded(network, form):
                _export_encoder(encoder, inputs, tuple(state), paths["encoder"], form.opset)
                _export_decoder(decoder, state, paths["decoder"], form.opset)
                if coarse is not None:
                    prompts, axes = _prompts(decoder), _prompt_axes(decoder)
                    paths |= export_region_graphs(
                        decoder, coarse, state, prompts, axes, folder, form.opset
                    )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ExportError(
                f"torch {torch.__version__} could not export this network: "
                f"{str(error).strip().splitlines()[0]}. Nothing was written; "
                "`ois doctor` shows the versions this toolkit was tested with"
            ) from error
        finally:
            set_attention_ops(network, TorchAttention())
    return paths


def decoder_example(
    encoder: ImageEncoder, decoder: ClickDecoder
) -> tuple[dict[str, Tensor], tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """An image state and prompts to trace a decoder with, and the free axes of each prompt."""
    state = encoder(*_images(encoder.network.config))
    return state, _prompts(decoder), _prompt_axes(decoder)


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
    write_onnx(graph, inputs, shapes, path, list(ENCODER_INPUTS), list(names), opset)


def _export_decoder(
    decoder: ClickDecoder, state: dict[str, Tensor], path: Path, opset: int
) -> None:
    shapes = ({name: free_axes(name) for name in state}, *_prompt_axes(decoder))
    prompts = _prompts(decoder)
    write_onnx(
        decoder,
        (state, *prompts),
        shapes,
        path,
        [*state, *PROMPT_NAMES],
        list(DECODER_OUTPUTS),
        opset,
    )


def _images(config: NetworkConfig) -> tuple[Tensor, ...]:
    rows, columns = _TRACE_GRID
    image = torch.zeros(rows * config.patch, columns * config.patch, 3, dtype=torch.uint8)
    table = config.position_table
    return image, torch.zeros(rows, table), torch.zeros(columns, table)


def _prompts(decoder: ClickDecoder) -> tuple[Tensor, ...]:
    scale = decoder.network.config.coverage_scale
    rows, columns = (scale * cells for cells in _TRACE_GRID)
    n = _TRACE_OBJECTS
    slots = 2 * _TRACE_SLOTS if decoder.rewrites.few_slots else SLOTS
    return (
        torch.zeros(n, slots, 2),
        torch.zeros(n, slots, dtype=torch.int32),
        torch.zeros(n, rows, columns, dtype=torch.uint8),
        torch.zeros(n, dtype=torch.bool),
    )


def _prompt_axes(decoder: ClickDecoder) -> tuple[dict[int, Any], ...]:
    auto = Dim.AUTO
    slots: dict[int, Any] = {0: auto}
    if decoder.rewrites.few_slots:
        slots[1] = 2 * Dim("slots_per_sign", min=2, max=SLOTS_PER_SIGN)
    return slots, slots, {0: auto, 1: auto, 2: auto}, {0: auto}
