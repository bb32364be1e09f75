"""An fp32 graph -> the same graph typed in half precision, with fp32 islands.

TensorRT 11 has no precision flags: what the graph says is what is built. So the graph says it,
node by node, by the three lists that mixed precision in PyTorch uses as well:

    half      convolutions, matrix products and attention: the multiplications worth it
    followers cheap arithmetic and data movement: half where all their inputs are, else fp32
    fp32      everything else: LayerNorm, softmax, sin and cos, division, reductions

What follows from them are the islands. The residual stream of the ViT and of the click tokens
is fp32 (a half and an fp32 operand add up in fp32). Coordinates, Fourier phases, depths, order
maps and the attention biases are fp32 because nothing on their way is a product; the exceptions
(the Fourier matrix, the position matrices) are kept out by name. The last convolution before a
map that leaves the engine (logits, depth) is fp32 too.

Inputs and outputs that users see keep their types. In fp16 the image state between the engines
is fp16 except for the depths, half the memory an image; in bf16 it stays fp32, because neither
NumPy nor the server's Python models have bf16 arrays.
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

#: Which inputs of these operators are typed; the others are shapes, scales and indices.
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
#: Operands that make a product fp32: coordinates and what positions are interpolated with.
ISLAND_OPERANDS = ("pos_rows", "pos_cols", ".gaussian")
#: Maps that leave an engine and are computed in fp32 from their last convolution on.
FP32_MAPS = ("logits", "depth")
#: Tensors between the engines that stay fp32 in every precision.
FP32_STATE = ("depth", "depth_min", "depth_max", "grid_depth")
#: What callers give and get.
_FP32_CALLER = ("pos_rows", "pos_cols", "points", "logits")


def typed(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """A copy of the fp32 `model` typed as the module says.

    Raises `UnsupportedGraph` when a weight does not fit into fp16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if precision is Precision.FP32:
        return copy
    _Typing(copy.graph, precision).run()
    del copy.graph.value_info[:]  # their types changed; runtimes infer them anyway
    return copy


def crosses_in_half(name: str, precision: Precision) -> bool:
    """Whether the engines' input or output `name` is stored in half precision."""
    return precision is Precision.FP16 and name not in (*FP32_STATE, *_FP32_CALLER)


@dataclass
class _Typing:
    """One walk through a graph, front to back."""

    graph: onnx.GraphProto
    precision: Precision
    types: dict[str, int] = field(default_factory=dict)  # of every float tensor met so far
    casts: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def run(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.late = last_convolutions(self.graph)
        known = _element_types(self.graph)
        for value in self.graph.input:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                self.types[value.name] = self._outside(value)
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

    def _outside(self, value: onnx.ValueInfoProto) -> int:
        """Give an input or output the type that it has outside, and return that."""
        half = crosses_in_half(value.name, self.precision)
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
            island = node.name in self.late or any(
                name.endswith(ISLAND_OPERANDS) for name in node.input
            )
            return int(TensorProto.FLOAT) if island else half
        if node.op_type in FOLLOWERS:
            carried = [
                self.types[node.input[n]] for n in floats if node.input[n] not in self.constants
            ]
            if carried and all(kind == half for kind in carried):
                return half
        return int(TensorProto.FLOAT)

    def _cast(self, name: str, kind: int) -> str:
        """The name of `name` as `kind`; constants are converted, other tensors cast once."""
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
        """The graph's output keeps its name, in the type that it has outside."""
        wanted = self._outside(value)
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
    """Names of the convolutions that FP32_MAPS come from, with nothing but moves between."""
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
    """An fp32 array as a half tensor. Raises `UnsupportedGraph` when a value does not fit."""
    largest = float(np.abs(array).max(initial=0))
    if largest > precision.largest:
        raise UnsupportedGraph(
            f"the weight {name!r} holds {largest:.3g}; {precision} ends at "
            f"{precision.largest:.5g}. Use --precision bf16 or fp32"
        )
    if precision is Precision.FP16:
        return numpy_helper.from_array(array.astype(np.float16), name)
    bits = array.astype(np.float32).reshape(-1).view(np.uint32)
    # Round to nearest, ties to even, as processors do.
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, rounded.tobytes(), raw=True)


def _element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element type by tensor name, as the fp32 graph has them."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    missing = sorted(
        name for node in graph.node for name in node.output if name and name not in types
    )
    if missing:
        raise UnsupportedGraph(
            f"the graph does not say the type of {len(missing)} tensor(s), first {missing[0]!r}; "
            "expected the type of each, as torch's exporter writes them"
        )
    return types
