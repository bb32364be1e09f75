"""Converts an fp32 graph to half precision (fp16 or bf16), with fp32 islands.

TensorRT 11 has no precision flags: it builds the types of the graph. So every node is typed, by
the same three lists as in PyTorch's mixed precision:

    half       convolutions, matrix products and attention
    followers  cheap arithmetic and data movement: half if all inputs are half, else fp32
    fp32       everything else: LayerNorm, softmax, sin and cos, division, reductions

This leaves fp32 islands. The residual streams of the ViT and of the click tokens are fp32,
because a sum with an fp32 operand is fp32. Coordinates, Fourier phases, depths, order maps and
attention biases are fp32, because no product is involved in computing them; the two exceptions
(the Fourier matrix, the position matrices) are excluded by name. The last convolution before the
logits and the depth is fp32 as well.

The inputs and outputs of the two engines that users see keep their types. In fp16, the image
state between the engines is fp16 except for the depths, which halves the memory per image. In
bf16 it stays fp32, because neither NumPy nor Triton's Python backend has bf16 arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ois_client.contract.errors import UnsupportedGraph
from ois_runtime.engines.backends import Precision

ONNX_TYPES = {
    Precision.FP32: int(TensorProto.FLOAT),
    Precision.FP16: int(TensorProto.FLOAT16),
    Precision.BF16: int(TensorProto.BFLOAT16),
}

#: Operator -> the positions of its float inputs.
HALF: dict[str, tuple[int, ...]] = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "MatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "Attention": (0, 1, 2, 3),
}
FOLLOWERS = {
    *("Add", "Sub", "Mul", "Relu", "Gelu", "Where", "Resize"),
    *("Concat", "Expand", "Gather", "GatherElements", "Identity", "Pad", "Reshape", "Slice"),
    *("ScatterElements", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}
#: Operands that keep a product fp32: coordinates, and the matrices that interpolate positions.
ISLAND_OPERANDS = ("pos_rows", "pos_cols", ".gaussian")
#: Outputs that are computed in fp32 from their last convolution on.
FP32_MAPS = ("logits", "depth")
#: Tensors of the image state that stay fp32 in every precision.
FP32_STATE = ("depth", "depth_min", "depth_max", "grid_depth")
#: Inputs and outputs that callers see.
_FP32_CALLER = ("pos_rows", "pos_cols", "points", "logits")


def typed(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Return a copy of the fp32 `model` in `precision`.

    Raises `UnsupportedGraph` if a weight is too large for the precision, or if the type of a
    tensor is unknown.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if precision is Precision.FP32:
        return copy
    _Converter(copy.graph, precision).run()
    del copy.graph.value_info[:]  # outdated types; runtimes infer them
    return copy


def is_fp32_product(node: onnx.NodeProto, last: set[str]) -> bool:
    """Return whether a product belongs to an fp32 island. last: see `last_convolutions`."""
    return node.name in last or any(name.endswith(ISLAND_OPERANDS) for name in node.input)


def _is_half_outside(name: str, precision: Precision) -> bool:
    """Whether the input or output `name` of an engine is fp16."""
    return precision is Precision.FP16 and name not in (*FP32_STATE, *_FP32_CALLER)


@dataclass
class _Converter:
    """Types a graph in one pass over its nodes, from inputs to outputs."""

    graph: onnx.GraphProto
    precision: Precision
    types: dict[str, int] = field(default_factory=dict)  # of every float tensor so far
    casts: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def run(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.last = last_convolutions(self.graph)
        known = _element_types(self.graph)
        for value in self.graph.input:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                self.types[value.name] = self._type_outside(value)
        for node in self.graph.node:
            self._node(node, known)
        for value in self.graph.output:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                self._output(value)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for name, tensor in self.constants.items() if name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _type_outside(self, value: onnx.ValueInfoProto) -> int:
        """Set the type that an input or output of the engine has outside, and return it."""
        half = _is_half_outside(value.name, self.precision)
        kind = ONNX_TYPES[self.precision] if half else int(TensorProto.FLOAT)
        value.type.tensor_type.elem_type = kind
        return kind

    def _node(self, node: onnx.NodeProto, known: dict[str, int]) -> None:
        floats = [
            position
            for position, name in enumerate(node.input)
            if name and known.get(name) == TensorProto.FLOAT
        ]
        if node.op_type in HALF:
            floats = [position for position in floats if position in HALF[node.op_type]]
        elif node.op_type == "Resize":
            floats = [0]
        kind = self._kind(node, floats)
        for position in floats:
            node.input[position] = self._cast(node.input[position], kind)
        self.nodes.append(node)
        for name in node.output:
            if known.get(name) == TensorProto.FLOAT:
                self.types[name] = kind if floats else TensorProto.FLOAT

    def _kind(self, node: onnx.NodeProto, floats: list[int]) -> int:
        half = ONNX_TYPES[self.precision]
        if node.op_type in HALF:
            return int(TensorProto.FLOAT) if is_fp32_product(node, self.last) else half
        if node.op_type in FOLLOWERS:
            carried = [
                self.types[node.input[n]] for n in floats if node.input[n] not in self.constants
            ]
            if carried and all(kind == half for kind in carried):
                return half
        return int(TensorProto.FLOAT)

    def _cast(self, name: str, kind: int) -> str:
        """The name of tensor `name` converted to `kind`; a cast is added once per tensor."""
        if name in self.constants:
            return name if kind == TensorProto.FLOAT else self._constant(name)
        if self.types[name] == kind:
            return name
        if (name, kind) not in self.casts:
            self.casts[name, kind] = f"{name}_{TensorProto.DataType.Name(kind).lower()}"
            self.nodes.append(
                helper.make_node(
                    "Cast",
                    [name],
                    [self.casts[name, kind]],
                    name=f"cast_{len(self.casts)}",
                    to=kind,
                )
            )
        return self.casts[name, kind]

    def _constant(self, name: str) -> str:
        new = f"{name}_{self.precision.value}"
        if new not in self.constants:
            array = numpy_helper.to_array(self.constants[name])
            self.constants[new] = half_tensor(array, new, self.precision)
        return new

    def _output(self, value: onnx.ValueInfoProto) -> None:
        """Cast an output to its outside type, if needed, and keep its name."""
        wanted = self._type_outside(value)
        if self.types[value.name] == wanted:
            return
        inner = f"{value.name}_inner"
        for node in self.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == value.name:
                        names[position] = inner
        self.nodes.append(
            helper.make_node("Cast", [inner], [value.name], name=f"{value.name}_out", to=wanted)
        )


def last_convolutions(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the last convolutions before `FP32_MAPS`."""
    made = {name: node for node in graph.node for name in node.output}
    found = set()
    for output in FP32_MAPS:
        node = made.get(output)
        while node is not None and node.op_type in ("Gather", "Squeeze", "Relu", "Slice"):
            node = made.get(node.input[0])
        if node is not None and node.op_type == "Conv":
            found.add(node.name)
    return found


def half_tensor(array: NDArray[np.generic], name: str, precision: Precision) -> TensorProto:
    """Convert an fp32 array to a half tensor. Raises `UnsupportedGraph` if a value is too large."""
    largest = float(np.abs(array).max(initial=0))
    if largest > precision.largest:
        raise UnsupportedGraph(
            f"the weight {name!r} contains {largest:.3g}; the largest {precision} number is "
            f"{precision.largest:.5g}. Use --precision bf16 or fp32"
        )
    if precision is Precision.FP16:
        return numpy_helper.from_array(array.astype(np.float16), name)
    bits = array.astype(np.float32).reshape(-1).view(np.uint32)
    # Round to nearest, ties to even, as hardware does.
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, rounded.tobytes(), raw=True)


def _element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element type by tensor name. Raises `UnsupportedGraph` if a type is unknown."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    missing = sorted(
        name for node in graph.node for name in node.output if name and name not in types
    )
    if missing:
        raise UnsupportedGraph(
            f"{len(missing)} tensor(s) of the graph have no type, the first is {missing[0]!r}; "
            "expected a type for each. Export the graph with torch.onnx.export(dynamo=True)"
        )
    return types
