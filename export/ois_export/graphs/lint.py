"""Lint for exported graphs: finds what a target rejects or runs incorrectly, without running it.

A rule is a function from a model to complaints. Its docstring says why the rule exists and is
what `ois lint --rules` prints. The rules for TensorRT are in `tensorrt/rules.py`; `Target.rules`
gives the rules of each target. A number alone is an issue of NVIDIA/TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from ois_client.contract.errors import InvalidInput, UnsupportedGraph
from ois_export.graphs.precision import is_fp32_product, last_convolutions

Rule = Callable[[onnx.ModelProto], Iterator[str]]

#: Operators whose output size depends on values.
_DATA_DEPENDENT = {"NonZero", "Unique", "Compress", "NonMaxSuppression"}
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Dropout"}
HALF_TYPES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_ISLANDS = {"LayerNormalization", "Softmax", "Sin", "Cos", "ReduceMean", "ReduceSum", "Div"}


def valid_onnx(model: onnx.ModelProto) -> Iterator[str]:
    """The graph must be valid according to ONNX's own checker."""
    try:
        onnx.checker.check_model(model, full_check=False)
    except onnx.checker.ValidationError as error:
        yield f"not valid ONNX: {str(error).strip().splitlines()[0]}"


def known_domains(model: onnx.ModelProto) -> Iterator[str]:
    """Allowed are standard operators and ONNX Runtime's `MultiHeadAttention`; other runtimes lack
    the rest."""
    for node in model.graph.node:
        name = f"{node.domain}.{node.op_type}"
        if node.domain not in ("", "ai.onnx") and name != "com.microsoft.MultiHeadAttention":
            yield f"node {node.name!r} is {name}; expected a standard ONNX operator"


def no_control_flow(model: onnx.ModelProto) -> Iterator[str]:
    """Branches and loops prevent fusion and CUDA graphs, and TensorRT runs some of them
    incorrectly (4846: If, Transpose, Resize)."""
    for node in model.graph.node:
        if node.op_type in _CONTROL_FLOW:
            yield f"node {node.name!r} is {node.op_type}; expected no control flow"


def no_data_dependent_shapes(model: onnx.ModelProto) -> Iterator[str]:
    """If the size of an output depends on values, no runtime can plan its memory."""
    for node in model.graph.node:
        if node.op_type in _DATA_DEPENDENT:
            yield f"node {node.name!r} is {node.op_type}: its output's size depends on values"


def no_grid_sample(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT samples GridSample of opset 20 and newer as nearest (4646, onnx/onnx-tensorrt 1060);
    use Gather instead."""
    for node in model.graph.node:
        if node.op_type == "GridSample":
            yield f"node {node.name!r} is GridSample: TensorRT samples it as nearest"


def deterministic(model: onnx.ModelProto) -> Iterator[str]:
    """Random numbers and dropout must not be left over from training."""
    for node in model.graph.node:
        if node.op_type in _RANDOM:
            yield f"node {node.name!r} is {node.op_type}: the graph is not deterministic"


def finite_constants(model: onnx.ModelProto) -> Iterator[str]:
    """Weights and constants must be finite: on some runtimes a mask of -inf gives rows of NaN."""
    for name, array in _constants(model):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"constant {name!r} holds NaN or infinity"


def no_double_precision(model: onnx.ModelProto) -> Iterator[str]:
    """float64 is always a mistake here; runtimes support it slowly or not at all."""
    for name, array in _constants(model):
        if array.dtype == np.float64 and array.size > 1:
            yield f"constant {name!r} is float64"
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.DOUBLE:
                yield f"node {node.name!r} casts to float64"


def no_resize_of_positions(model: onnx.ModelProto) -> Iterator[str]:
    """A bicubic Resize is exported with an error of 3e-3. The position table is interpolated by two
    matrices instead, which are inputs of the encoder."""
    for node in model.graph.node:
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
        if node.op_type == "Resize" and mode == b"cubic":
            yield f"node {node.name!r} is a cubic Resize: use the two position matrices"


def free_axes(model: onnx.ModelProto) -> Iterator[str]:
    """One engine serves every image shape and number of objects, so these axes must be free."""
    expected = {
        "image": (0, 1),
        "pos_rows": (0,),
        "pos_cols": (0,),
        "points": (0,),
        "coverage": (0, 1, 2),
        "logits": (0, 1, 2),
        "new_coverage": (0, 1, 2),
        "depth": (1, 2),
    }
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        for axis in expected.get(value.name, ()):
            if axis < len(dims) and dims[axis].HasField("dim_value"):
                yield f"{value.name!r} has the fixed size {dims[axis].dim_value} on axis {axis}"


def one_half_type(model: onnx.ModelProto) -> Iterator[str]:
    """An engine is built in the types of its graph. So fp16 and bf16 must not be mixed, and a half
    graph must not have fp32 products (roboflow/rf-detr 1453: an "fp16" engine without fp16)."""
    types = element_types(model)
    present = set(types.values()) & HALF_TYPES
    if len(present) > 1:
        yield "the graph holds fp16 and bf16"
    if not present:
        return
    last = last_convolutions(model.graph)
    for node in nodes_of(model, "Conv", "ConvTranspose", "MatMul", "Gemm"):
        if types.get(node.output[0]) == TensorProto.FLOAT and not is_fp32_product(node, last):
            yield f"node {node.name!r} ({node.op_type}) is fp32 in a half graph"


def fp32_islands(model: onnx.ModelProto) -> Iterator[str]:
    """Normalisation and angles must be fp32: ViTs gave wrong results in fp16 (4723), and 8 or 11
    bits are too few for a pixel coordinate or an angle in the hundreds."""
    types = element_types(model)
    for node in model.graph.node:
        if node.op_type in _ISLANDS and types.get(node.output[0]) in HALF_TYPES:
            yield f"node {node.name!r} ({node.op_type}) is {type_names({types[node.output[0]]})}"


CPU_RULES: tuple[Rule, ...] = (
    valid_onnx,
    known_domains,
    no_control_flow,
    no_data_dependent_shapes,
    no_grid_sample,
    deterministic,
    finite_constants,
    no_double_precision,
    no_resize_of_positions,
    free_axes,
)
CUDA_RULES: tuple[Rule, ...] = (*CPU_RULES, one_half_type, fp32_islands)


def check(path: Path, rules: tuple[Rule, ...] = CPU_RULES) -> onnx.ModelProto:
    """Load and lint one graph. Raises `UnsupportedGraph` with the complaints (at most 20)."""
    model = load_graph(path)
    found = [f"{rule.__name__}: {complaint}" for rule, complaint in complaints(model, rules)]
    if found:
        shown = "\n  ".join(found[:20])
        raise UnsupportedGraph(
            f"{path.name} breaks {len(found)} lint rule(s); nothing was written:\n  {shown}"
        )
    return model


def complaints(model: onnx.ModelProto, rules: tuple[Rule, ...]) -> list[tuple[Rule, str]]:
    """Return every complaint about a graph, with its rule."""
    return [(rule, complaint) for rule in rules for complaint in rule(model)]


def load_graph(path: Path) -> onnx.ModelProto:
    """Load an ONNX file. Raises `InvalidInput` if it is missing or is not ONNX."""
    try:
        return onnx.load(str(path))
    except (OSError, DecodeError) as error:
        raise InvalidInput(f"cannot read {path} as ONNX: {error}") from error


def nodes_of(model: onnx.ModelProto, *operators: str) -> Iterator[onnx.NodeProto]:
    """The nodes with one of these operators."""
    return (node for node in model.graph.node if node.op_type in operators)


def tensor_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Inferred type and shape by tensor name, without the constants."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type for value in values}


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type (`TensorProto.FLOAT`, ...) by tensor name, with the constants."""
    types = {name: tensor.elem_type for name, tensor in tensor_types(model).items()}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def type_names(kinds: set[int | None]) -> str:
    """Element types as text for a complaint."""
    return ", ".join(
        sorted(TensorProto.DataType.Name(kind).lower() if kind else "unknown" for kind in kinds)
    )


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in model.graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.name or node.output[0], numpy_helper.to_array(attribute.t)
