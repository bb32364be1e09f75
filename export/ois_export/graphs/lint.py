"""Static lint of exported graphs: what a target is known to get wrong, found before it runs.

Each rule is a function from a model to complaints; `check` collects them all and raises
`UnsupportedGraph` with the whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from ois_client.contract.errors import InvalidInput, UnsupportedGraph

Rule = Callable[[onnx.ModelProto], Iterator[str]]

#: Operators whose output size depends on values: no runtime can plan memory for them.
_DATA_DEPENDENT = {"NonZero", "Unique", "Compress", "NonMaxSuppression"}
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Dropout"}


def valid_onnx(model: onnx.ModelProto) -> Iterator[str]:
    """The file is valid ONNX by ONNX's own checker."""
    try:
        onnx.checker.check_model(model, full_check=False)
    except onnx.checker.ValidationError as error:
        yield f"not valid ONNX: {str(error).strip().splitlines()[0]}"


def known_domains(model: onnx.ModelProto) -> Iterator[str]:
    """Only standard operators and ONNX Runtime's contributed attention."""
    for node in model.graph.node:
        name = f"{node.domain}.{node.op_type}"
        if node.domain not in ("", "ai.onnx") and name != "com.microsoft.MultiHeadAttention":
            yield f"node {node.name!r} is {name}; expected standard ONNX operators"


def no_control_flow(model: onnx.ModelProto) -> Iterator[str]:
    """No branches or loops: they block fusion, CUDA graphs and TensorRT."""
    for node in model.graph.node:
        if node.op_type in _CONTROL_FLOW:
            yield f"node {node.name!r} is {node.op_type}: control flow in the graph"


def no_data_dependent_shapes(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type in _DATA_DEPENDENT:
            yield f"node {node.name!r} is {node.op_type}: its output's size depends on values"


def no_grid_sample(model: onnx.ModelProto) -> Iterator[str]:
    """TensorRT reads GridSample of opset 20 and newer as nearest; we gather instead."""
    for node in model.graph.node:
        if node.op_type == "GridSample":
            yield f"node {node.name!r} is GridSample: TensorRT samples it as nearest"


def deterministic(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type in _RANDOM:
            yield f"node {node.name!r} is {node.op_type}: the graph is not deterministic"


def finite_constants(model: onnx.ModelProto) -> Iterator[str]:
    """No NaN or infinity among weights and constants: -inf masks give NaN rows somewhere."""
    for name, array in _constants(model):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"constant {name!r} holds NaN or infinity"


def no_double_precision(model: onnx.ModelProto) -> Iterator[str]:
    """float64 weights are always an accident, and slow or unsupported everywhere."""
    for name, array in _constants(model):
        if array.dtype == np.float64 and array.size > 1:
            yield f"constant {name!r} is float64"
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.DOUBLE:
                yield f"node {node.name!r} casts to float64"


def no_resize_of_positions(model: onnx.ModelProto) -> Iterator[str]:
    """Bicubic Resize exports with an error of 3e-3; the position table comes as matrices."""
    for node in model.graph.node:
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
        if node.op_type == "Resize" and mode == b"cubic":
            yield f"node {node.name!r} is a cubic Resize: use the two position matrices"


def free_axes(model: onnx.ModelProto) -> Iterator[str]:
    """One engine for every image shape: image sides and N must not be baked in."""
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


def check(path: Path, rules: tuple[Rule, ...] = CPU_RULES) -> onnx.ModelProto:
    """Load and lint one graph. Raises `UnsupportedGraph` naming every broken rule."""
    model = load_graph(path)
    found = [f"{rule.__name__}: {complaint}" for rule, complaint in complaints(model, rules)]
    if found:
        shown = "\n  ".join(found[:20])
        raise UnsupportedGraph(
            f"{path.name} breaks {len(found)} lint rule(s); nothing was written:\n  {shown}"
        )
    return model


def complaints(model: onnx.ModelProto, rules: tuple[Rule, ...]) -> list[tuple[Rule, str]]:
    """What is wrong with a graph, and by which rule."""
    return [(rule, complaint) for rule in rules for complaint in rule(model)]


def load_graph(path: Path) -> onnx.ModelProto:
    """Raises `InvalidInput` for a file that is missing or no ONNX."""
    try:
        return onnx.load(str(path))
    except (OSError, DecodeError) as error:
        raise InvalidInput(f"cannot read {path} as ONNX: {error}") from error


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in model.graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.name or node.output[0], numpy_helper.to_array(attribute.t)
