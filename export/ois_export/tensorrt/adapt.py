"""Adapts a graph to TensorRT, without changing what it computes.

uint8         TensorRT supports it only for inputs and outputs, so inputs are cast to fp32 first
scatter-add   TensorRT runs `ScatterElements` with a reduction as a plugin; a product with a 0/1
              matrix needs no plugin and has a fixed order of sums
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ois_client.contract.errors import UnsupportedGraph


def for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` with the changes above.

    Raises `UnsupportedGraph` if a scatter does not add whole rows along axis 1.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _cast_inputs_first(copy.graph)
    _replace_scatters(copy.graph)
    return copy


def _cast_inputs_first(graph: onnx.GraphProto) -> None:
    """Cast every uint8 input to fp32 and let its readers read the result."""
    casts = []
    for value in graph.input:
        if value.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        name = f"{value.name}_fp32"
        for node in graph.node:
            for position, read in enumerate(node.input):
                if read == value.name:
                    node.input[position] = name
        casts.append(
            helper.make_node("Cast", [value.name], [name], name=name, to=TensorProto.FLOAT)
        )
        shape = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        shape.type.tensor_type.shape.CopyFrom(value.type.tensor_type.shape)
        graph.value_info.append(shape)
        for node in graph.node:  # nodes that moved uint8 now move fp32
            if name in node.input and node.op_type not in ("Cast", "Shape"):
                _retype(graph, node)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _retype(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Change the recorded type of `node`'s outputs from uint8 to fp32, and of what reads them."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for reader in graph.node:
        for name in reader.input:
            readers.setdefault(name, []).append(reader)
    recorded = {value.name: value.type.tensor_type for value in graph.value_info}
    waiting = [node]
    while waiting:
        for name in waiting.pop().output:
            if name in recorded and recorded[name].elem_type == TensorProto.UINT8:
                recorded[name].elem_type = TensorProto.FLOAT
                waiting += readers.get(name, [])


def _replace_scatters(graph: onnx.GraphProto) -> None:
    """Replace every scatter-add of rows by a product with a 0/1 matrix."""
    made = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    number = 0
    for node in graph.node:
        reduction = next((a.s for a in node.attribute if a.name == "reduction"), b"none")
        if node.op_type != "ScatterElements" or reduction == b"none":
            nodes.append(node)
            continue
        index = made.get(node.input[1])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if reduction != b"add" or axis != 1 or index is None or index.op_type != "Expand":
            raise UnsupportedGraph(
                f"node {node.name!r} scatters with {reduction.decode()} along axis {axis}; "
                "expected a sum of whole rows along axis 1. Write it as a product, or export for "
                "another target"
            )
        nodes += _product(graph, node, index.input[0], f"rows{number}")
        number += 1
    del graph.node[:]
    graph.node.extend(nodes)


def _product(
    graph: onnx.GraphProto, scatter: onnx.NodeProto, rows: str, name: str
) -> Iterator[onnx.NodeProto]:
    """base (N, K, C), rows (N, P, 1), values (N, P, C) -> base + [k == row] @ values."""
    base, _, values = scatter.input
    constants = {
        f"{name}_zero": np.int64(0),
        f"{name}_one": np.int64(1),
        f"{name}_column": np.array([-1, 1], dtype=np.int64),
        f"{name}_scalar": np.array([0], dtype=np.int64),
    }
    for constant, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), constant))

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes)

    def declare(output: str, kind: int, shape: list[int | str] | None = None) -> None:
        graph.value_info.append(helper.make_tensor_value_info(output, kind, shape))

    yield node("Shape", [base], f"{name}_length", start=1, end=2)
    yield node("Squeeze", [f"{name}_length", f"{name}_scalar"], f"{name}_count")
    yield node("Range", [f"{name}_zero", f"{name}_count", f"{name}_one"], f"{name}_all")
    yield node("Reshape", [f"{name}_all", f"{name}_column"], f"{name}_k")
    yield node("Transpose", [rows], f"{name}_row", perm=[0, 2, 1])
    yield node("Equal", [f"{name}_k", f"{name}_row"], f"{name}_hit")
    yield node("Cast", [f"{name}_hit"], f"{name}_matrix", to=TensorProto.FLOAT)
    yield node("MatMul", [f"{name}_matrix", values], f"{name}_sum")
    yield node("Add", [base, f"{name}_sum"], scatter.output[0])
    for output in ("length", "count", "all", "k", "row"):
        declare(f"{name}_{output}", TensorProto.INT64)
    declare(f"{name}_hit", TensorProto.BOOL)
    for output in ("matrix", "sum"):
        declare(f"{name}_{output}", TensorProto.FLOAT)
