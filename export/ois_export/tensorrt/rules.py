"""What TensorRT is known to refuse or to get wrong, found in a graph before hours on a GPU.

Without a GPU TensorRT cannot even parse, so these rules stand for its importer. Each says why
and where that is recorded: an issue number of NVIDIA/TensorRT unless another project is named.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from ois_export.graphs import lint
from ois_export.graphs.precision import ISLAND_OPERANDS, last_convolutions
from ois_export.targets import Target

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_ISLANDS = {"LayerNormalization", "Softmax", "Sin", "Cos", "ReduceMean", "ReduceSum", "Div"}
_RESIZES = {b"nearest", b"linear"}


def standard_operators(model: onnx.ModelProto) -> Iterator[str]:
    """Its importer knows no contributed operator (fabio-sim/LightGlue-ONNX 36, 43, 56)."""
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"node {node.name!r} is {node.domain}.{node.op_type}: not standard ONNX"


def attention_inputs(model: onnx.ModelProto) -> Iterator[str]:
    """`Attention` is imported with one output, no cache, not causal with a mask as well, query, key
    and value of one rank, and a mask of at most four axes (the source of onnx/onnx-tensorrt)."""
    shapes = _shapes(model)
    for node in _nodes(model, "Attention"):
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
            yield f"node {node.name!r} has query, key, value of {got} axes; expected one number"
        mask = shapes.get(node.input[3], []) if len(node.input) > 3 else []
        if len(mask) > 4:
            yield f"node {node.name!r} has a mask of {len(mask)} axes; expected at most 4"


def attention_fuses(model: onnx.ModelProto) -> Iterator[str]:
    """`Attention` is not decomposed: without a fused kernel, which needs half precision, equal
    types and 16 <= head size <= 256 in steps of 8, the build fails (4705)."""
    types, shapes = _types(model), _shapes(model)
    for node in _nodes(model, "Attention"):
        kinds = {types.get(name) for name in node.input[:4] if name}
        kinds.discard(TensorProto.BOOL)
        if len(kinds) > 1:
            yield f"node {node.name!r} mixes the types {_names(kinds)}; expected one"
        elif not kinds <= _HALVES:
            yield f"node {node.name!r} is {_names(kinds)}; expected fp16 or bf16"
        size = _head_size(node, shapes)
        if size is not None and not (16 <= size <= 256 and size % 8 == 0):
            yield f"node {node.name!r} has heads of {size}; expected 16 to 256 in steps of 8"


def no_self_normalisation(model: onnx.ModelProto) -> Iterator[str]:
    """Min-max normalisation inside an engine is fused to garbage or NaN (11.2,
    rerun-io/examples-monorepo 87): the two scalars must be outputs and be applied elsewhere."""
    read = {name for node in model.graph.node for name in node.input}
    lowest = {node.input[0]: node.output[0] for node in _nodes(model, "ReduceMin")}
    highest = {node.input[0]: node.output[0] for node in _nodes(model, "ReduceMax")}
    for tensor in lowest.keys() & highest.keys():
        if lowest[tensor] in read or highest[tensor] in read:
            yield f"{tensor!r} meets its own minimum and maximum in the graph"


def uint8_at_the_edge(model: onnx.ModelProto) -> Iterator[str]:
    """uint8 exists only as input and output, next to a cast from or to float
    (onnx/onnx-tensorrt, docs/operators.md)."""
    types = _types(model)
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
    """Scattering with a reduction becomes a plugin, and stock plugins are being removed (11.0
    migration guide); its sums also come in no fixed order."""
    for node in _nodes(model, "ScatterElements", "ScatterND"):
        reduction = next((a.s for a in node.attribute if a.name == "reduction"), b"none")
        if reduction != b"none":
            yield f"node {node.name!r} scatters with {reduction.decode()}"


def known_resizes(model: onnx.ModelProto) -> Iterator[str]:
    """Resize knows nearest and linear, no antialiasing (onnx/onnx-tensorrt, docs/operators.md)."""
    for node in _nodes(model, "Resize"):
        attributes = {a.name: a for a in node.attribute}
        mode = attributes["mode"].s if "mode" in attributes else b"nearest"
        if mode not in _RESIZES:
            yield f"node {node.name!r} resizes in mode {mode.decode()}; expected nearest or linear"
        if "antialias" in attributes and attributes["antialias"].i:
            yield f"node {node.name!r} resizes with antialiasing"


def constant_reduction_axes(model: onnx.ModelProto) -> Iterator[str]:
    """The axes of a reduction must be constants (onnx/onnx-tensorrt, docs/operators.md)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in _nodes(model, "Constant")}
    for node in model.graph.node:
        axes = node.input[1] if node.op_type.startswith("Reduce") and len(node.input) > 1 else ""
        if axes and axes not in constants:
            yield f"node {node.name!r} reduces along computed axes"


def opset_fits(model: onnx.ModelProto) -> Iterator[str]:
    """Attention exists from opset 23 on, bf16 convolutions from 22 on; beyond 24 nothing is
    imported yet."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    needed = 17  # LayerNormalization
    if any(_nodes(model, "Attention")):
        needed = 23
    elif TensorProto.BFLOAT16 in _types(model).values():
        needed = 22
    if not needed <= opset <= 24:
        yield f"the graph has opset {opset}; expected {needed} to 24"


def one_half_type(model: onnx.ModelProto) -> Iterator[str]:
    """An engine is built as the graph is typed, so a mix of fp16 and bf16 is a mistake, and so
    is an fp32 product in a half graph (roboflow/rf-detr 1453: an "fp16" engine without any)."""
    types = _types(model)
    present = set(types.values()) & _HALVES
    if len(present) > 1:
        yield "the graph holds fp16 and bf16"
    if not present:
        return
    maps = last_convolutions(model.graph)
    for node in _nodes(model, "Conv", "ConvTranspose", "MatMul", "Gemm"):
        island = node.name in maps or any(name.endswith(ISLAND_OPERANDS) for name in node.input)
        if types.get(node.output[0]) == TensorProto.FLOAT and not island:
            yield f"node {node.name!r} ({node.op_type}) is fp32 in a half graph"


def fp32_islands(model: onnx.ModelProto) -> Iterator[str]:
    """Normalisation and angles stay fp32: ViTs came out wrong in fp16 (4723), and a pixel
    coordinate or an angle of hundreds does not survive eight or eleven bits."""
    types = _types(model)
    for node in model.graph.node:
        if node.op_type in _ISLANDS and types.get(node.output[0]) in _HALVES:
            yield f"node {node.name!r} ({node.op_type}) is {_names({types[node.output[0]]})}"


#: Rules of lint.py that hold here too. Its GridSample rule is 4646 (onnx/onnx-tensorrt 1060):
#: "linear" is read as nearest; its control flow rule is 4846: If, Transpose, Resize is wrong.
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
    one_half_type,
    fp32_islands,
    lint.no_grid_sample,
    lint.no_control_flow,
    lint.no_data_dependent_shapes,
    lint.deterministic,
    lint.finite_constants,
    lint.no_double_precision,
    lint.no_resize_of_positions,
    lint.free_axes,
)
CUDA_RULES: tuple[lint.Rule, ...] = (*lint.CPU_RULES, one_half_type, fp32_islands)


def rules_for(target: Target) -> tuple[lint.Rule, ...]:
    """The rules that a graph for `target` must keep."""
    return {
        Target.CPU: lint.CPU_RULES,
        Target.CUDA: CUDA_RULES,
        Target.TENSORRT: TENSORRT_RULES,
    }[target]


def _nodes(model: onnx.ModelProto, *kinds: str) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type in kinds)


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type for value in values}


def _types(model: onnx.ModelProto) -> dict[str, int]:
    types = {name: tensor.elem_type for name, tensor in _inferred(model).items()}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Sizes by tensor name; 0 stands for a free one."""
    constants = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return constants | {
        name: [dim.dim_value for dim in tensor.shape.dim]
        for name, tensor in _inferred(model).items()
        if tensor.HasField("shape")
    }


def _head_size(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | None:
    """Channels a head of an `Attention`, when the graph says."""
    shape = shapes.get(node.input[0], [])
    if len(shape) == 4:
        return shape[3] or None
    heads = next((a.i for a in node.attribute if a.name == "q_num_heads"), 0)
    if len(shape) != 3 or not heads or not shape[2]:
        return None
    return shape[2] // heads


def _names(kinds: set[int | None]) -> str:
    return ", ".join(
        sorted(TensorProto.DataType.Name(kind).lower() if kind else "unknown" for kind in kinds)
    )
