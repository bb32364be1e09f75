"""A bf16 graph that a CPU can run: every bf16 tensor becomes fp32 rounded to bf16.

ONNX Runtime's CPU kernels know no bf16. This graph has the same nodes in the same order; each
result that is bf16 there is rounded here, by a cast to bf16 and back. It shows what typing costs
where each node rounds once and sums in fp32, which is how tensor cores multiply. It does not show
a GPU's fusions (they round less often) nor its defects: those are for the gate on the built
engine.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

_BF16 = int(TensorProto.BFLOAT16)
_FLOAT = int(TensorProto.FLOAT)


def emulate_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the bf16-typed `model` in fp32 that rounds as the module says."""
    inferred = onnx.shape_inference.infer_shapes(model)
    rounded = {
        value.name
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type == _BF16
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.data_type == _BF16:
            array = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == _BF16:
                    attribute.i = _FLOAT
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in rounded:
                node.output[position] = f"{name}_exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}_exact"], [f"{name}_bf16"], to=_BF16),
                    helper.make_node("Cast", [f"{name}_bf16"], [name], to=_FLOAT),
                ]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy
