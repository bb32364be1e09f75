"""Quantises products of an fp32 graph to eight bits, with ONNX Runtime's quantiser.

The result is ONNX again, with QuantizeLinear and DequantizeLinear around weights and inputs of the
products (the form QDQ), so ONNX Runtime and OpenVINO both read it. Activations are uint8 with one
scale per tensor, weights int8 with one scale per output channel: AVX512-VNNI multiplies these two
types. Outputs stay as they are: quantising them too makes two to three times the error, and
OpenVINO needs it nowhere.

A *layer* here is a block of the encoder, a residual unit of a head, or another single product.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

from ois_export.graphs.precision import is_fp32_product, last_convolutions
from ois_runtime.engines.pair import Arrays

#: Roles of graphs -> the operators that are quantised. In the decoder they are the mask head: its
#: matrix products are those of the clicks, which take little time and need their precision.
OPERATORS = {"encoder": ("Conv", "MatMul", "Gemm"), "decoder": ("Conv",)}
_GROUP = re.compile(r".*?(blocks\.\d+|stages\.\d+\.\d+|merges\.\d+|resConfUnit\d)")


class Quantiser:
    """An fp32 graph with the range of each of its tensors, over the inputs of a calibration."""

    def __init__(self, graph: Path, role: str, given: Iterable[Arrays]) -> None:
        """Run `graph` in ONNX Runtime on the inputs `given`, which must not be empty."""
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        self._operators = list(OPERATORS[role])
        with tempfile.TemporaryDirectory() as scratch:
            # The quantiser writes a file beside the one that it reads.
            copy = Path(scratch) / graph.name
            copy.symlink_to(graph.resolve())
            self._model = load_model_with_shape_infer(copy)
            names = [value.name for value in self._model.graph.input]
            calibrator = create_calibrator(
                str(graph),
                self._operators,
                augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            for feeds in given:
                calibrator.collect_data(_Reader({name: feeds[name] for name in names}))
            self._ranges: Any = calibrator.compute_data()
        self.layers = layers(self._model, role)

    def share_ranges(self, other: Quantiser) -> None:
        """Take the ranges of products that `other` has as well, so that both quantise alike."""
        theirs = other._inputs()
        for module, name in self._inputs().items():
            if module in theirs:
                self._ranges[name] = other._ranges[theirs[module]]

    def _inputs(self) -> dict[str, str]:
        """The input of each product that can be quantised, by its module."""
        names = {name for products in self.layers.values() for name in products}
        return {
            _module_of(node.name): node.input[0]
            for node in self._model.graph.node
            if node.name in names
        }

    def write(self, output: Path, chosen: Iterable[str]) -> None:
        """Write the graph with these layers in eight bits to `output`; at least one."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        quantiser = QDQQuantizer(
            model,
            True,  # per channel
            False,  # 8 bits, not 7
            QuantType.QInt8,
            QuantType.QUInt8,
            self._ranges,
            [product for layer in chosen for product in self.layers[layer]],
            [],
            self._operators,
            {"OpTypesToExcludeOutputQuantization": self._operators, "MatMulConstBOnly": True},
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()  # the quantiser appends its nodes
        made = quantiser.model.model
        _drop_metadata(made)
        onnx.save(made, str(output))


class _Reader:
    """One set of inputs, as the calibrator reads it."""

    def __init__(self, feeds: dict[str, Any]) -> None:
        self._left: list[dict[str, Any]] = [feeds]

    def get_next(self) -> dict[str, Any] | None:
        return self._left.pop() if self._left else None


def layers(model: onnx.ModelProto, role: str) -> dict[str, list[str]]:
    """The layers that can be quantised, in the graph's order, with the names of their products.

    Not among them are the last convolutions before logits and depth, which have one channel,
    products of coordinates, and products of two activations. Convolutions whose result a Relu and
    another node read are not either: OpenVINO 2026.4 gives the other node the result of the Relu.
    """
    read_by: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            read_by.setdefault(name, []).append(node.op_type)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    last = last_convolutions(model.graph)
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type not in OPERATORS[role] or is_fp32_product(node, last):
            continue
        shape = shapes.get(node.input[1])
        makes_logits = node.op_type == "Conv" and shape is not None and shape[0] == 1
        readers = read_by.get(node.output[0], [])
        misread = node.op_type == "Conv" and len(readers) > 1 and "Relu" in readers
        if shape is not None and node.name and not makes_logits and not misread:
            found.setdefault(_layer_of(node.name), []).append(node.name)
    return found


def _drop_metadata(model: onnx.ModelProto) -> None:
    """Remove what the quantiser notes about itself, and inferred types, which runtimes infer."""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    used = {name for node in model.graph.node for name in node.input}
    domains = {node.domain or "" for node in model.graph.node}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    opsets = [each for each in model.opset_import if each.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)


def _layer_of(product: str) -> str:
    """The layer of a product."""
    module = _module_of(product)
    group = _GROUP.match(module)
    return group.group() if group else module or product


def _module_of(product: str) -> str:
    """The module of a product by its name, `modules/node`."""
    module = product.partition("/")[0]
    # The parts of a decoder that decode a region call the same layer by other names.
    for prefix in ("encoder.", "decoder.", "network."):
        module = module.removeprefix(prefix)
    return module
