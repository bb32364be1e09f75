"""Lint rules for TensorRT: what it is known to reject or to compute incorrectly.

TensorRT cannot parse a graph without a GPU, so these rules stand in for its importer. Each names
its source: an issue number of NVIDIA/TensorRT, or another project.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from ois_export.graphs import lint

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_RESIZES = {b"nearest", b"linear"}


def standard_operators(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT imports standard operators only (fabio-sim/LightGlue-ONNX 36, 43, 56)."""
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"node {node.name!r} is {node.domain}.{node.op_type}; expected standard ONNX"


def attention_inputs(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT imports `Attention` with one output, without a cache, either causal or with a mask,
    query, key and value of one rank, and a mask of at most 4 axes (onnx/onnx-tensorrt's source)."""
    shapes = _shapes(model)
    for node in lint.nodes_of(model, "Attention"):
        if len([name for name in node.output if name]) != 1:
            yield f"node {node.name!r} has {len(node.output)} outputs; expected 1"
        if any(node.input[4:]):
            yield f"node {node.name!r} has a key or value cache; expected none"
        causal = next((a.i for a in node.attribute if a.name == "is_causal"), 0)
        if causal and len(node.input) > 3 and node.input[3]:
            yield f"node {node.name!r} is causal and has a mask; expected one of the two"
        ranks = [len(shapes[name]) for name in node.input[:3] if name in shapes]
        if len(set(ranks)) > 1:
            got = ", ".join(map(str, ranks))
            yield f"node {node.name!r} has query, key, value of {got} axes; expected equal ranks"
        mask = shapes.get(node.input[3], []) if len(node.input) > 3 else []
        if len(mask) > 4:
            yield f"node {node.name!r} has a mask of {len(mask)} axes; expected at most 4"


def attention_fuses(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT runs `Attention` only with a fused kernel, otherwise the build fails (4705). The
    kernels need half precision, equal types and a head size of 16 to 256 in steps of 8."""
    types, shapes = lint.element_types(model), _shapes(model)
    for node in lint.nodes_of(model, "Attention"):
        kinds = {types.get(name) for name in node.input[:4] if name}
        kinds.discard(TensorProto.BOOL)
        if len(kinds) > 1:
            yield f"node {node.name!r} mixes the types {lint.type_names(kinds)}; expected one"
        elif not kinds <= lint.HALF_TYPES:
            yield f"node {node.name!r} is {lint.type_names(kinds)}; expected fp16 or bf16"
        size = _head_size(node, shapes)
        if size is not None and not (16 <= size <= 256 and size % 8 == 0):
            yield f"node {node.name!r} has heads of {size}; expected 16 to 256 in steps of 8"


def no_self_normalisation(model: onnx.ModelProto) -> Iterator[str]:
    """Min-max normalisation inside an engine gives garbage or NaN after fusion (11.2,
    rerun-io/examples-monorepo 87). Make both scalars outputs and apply them elsewhere."""
    read = {name for node in model.graph.node for name in node.input}
    lowest = {node.input[0]: node.output[0] for node in lint.nodes_of(model, "ReduceMin")}
    highest = {node.input[0]: node.output[0] for node in lint.nodes_of(model, "ReduceMax")}
    for tensor in lowest.keys() & highest.keys():
        if lowest[tensor] in read or highest[tensor] in read:
            yield f"{tensor!r} is normalised by its own minimum and maximum"


def uint8_at_the_edge(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT supports uint8 only as an input or output next to a cast to or from float
    (onnx/onnx-tensorrt, docs/operators.md)."""
    types = lint.element_types(model)
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            if types.get(name) == TensorProto.UINT8 and not (
                node.op_type == "Cast" and types.get(node.output[0]) in _FLOATS
            ):
                yield f"node {node.name!r} ({node.op_type}) reads uint8 {name!r}"
        for name in node.output:
            if types.get(name) != TensorProto.UINT8:
                continue
            cast = node.op_type == "Cast" and types.get(node.input[0]) in _FLOATS
            if not cast or name not in outputs:
                yield f"node {node.name!r} ({node.op_type}) makes uint8 {name!r}"


def no_scatter_reduction(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT runs a scatter with a reduction as a plugin, and the plugins it ships are being
    removed (11.0 migration guide). The order of the sums is not fixed either."""
    for node in lint.nodes_of(model, "ScatterElements", "ScatterND"):
        reduction = next((a.s for a in node.attribute if a.name == "reduction"), b"none")
        if reduction != b"none":
            yield f"node {node.name!r} scatters with {reduction.decode()}"


def known_resizes(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT resizes as nearest or linear, without antialiasing (onnx/onnx-tensorrt,
    docs/operators.md)."""
    for node in lint.nodes_of(model, "Resize"):
        attributes = {a.name: a for a in node.attribute}
        mode = attributes["mode"].s if "mode" in attributes else b"nearest"
        if mode not in _RESIZES:
            yield f"node {node.name!r} resizes in mode {mode.decode()}; expected nearest or linear"
        if "antialias" in attributes and attributes["antialias"].i:
            yield f"node {node.name!r} resizes with antialiasing; expected none"


def constant_reduction_axes(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT needs constant axes in a reduction (onnx/onnx-tensorrt, docs/operators.md)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in lint.nodes_of(model, "Constant")}
    for node in model.graph.node:
        axes = node.input[1] if node.op_type.startswith("Reduce") and len(node.input) > 1 else ""
        if axes and axes not in constants:
            yield f"node {node.name!r} reduces along computed axes; expected constants"


def opset_fits(model: onnx.ModelProto) -> Iterator[str]:
    """`Attention` needs opset 23 and bf16 convolutions need 22; TensorRT imports up to 24."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    needed = 17  # LayerNormalization
    if any(lint.nodes_of(model, "Attention")):
        needed = 23
    elif TensorProto.BFLOAT16 in lint.element_types(model).values():
        needed = 22
    if not needed <= opset <= 24:
        yield f"the graph has opset {opset}; expected {needed} to 24"


TENSORRT_RULES: tuple[lint.Rule, ...] = (
    lint.valid_onnx,
    standard_operators,
    attention_inputs,
    attention_fuses,
    no_self_normalisation,
    uint8_at_the_edge,
    no_scatter_reduction,
    known_resizes,
    constant_reduction_axes,
    opset_fits,
    lint.one_half_type,
    lint.fp32_islands,
    lint.no_grid_sample,
    lint.no_control_flow,
    lint.no_data_dependent_shapes,
    lint.deterministic,
    lint.finite_constants,
    lint.no_double_precision,
    lint.no_resize_of_positions,
    lint.free_axes,
)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shape by tensor name; a free dimension is 0."""
    constants = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return constants | {
        name: [dim.dim_value for dim in tensor.shape.dim]
        for name, tensor in lint.tensor_types(model).items()
        if tensor.HasField("shape")
    }


def _head_size(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | None:
    """Channels per head of an `Attention`, None if the graph does not say."""
    shape = shapes.get(node.input[0], [])
    if len(shape) == 4:
        return shape[3] or None
    heads = next((a.i for a in node.attribute if a.name == "q_num_heads"), 0)
    if len(shape) != 3 or not heads or not shape[2]:
        return None
    return shape[2] // heads
