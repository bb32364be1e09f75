"""Runs exported graphs of every target on this machine's CPU, for the parity gates.

fp32 and fp16 graphs run unchanged in ONNX Runtime. ONNX Runtime's CPU kernels do not support
bf16, so a bf16 graph is emulated: the same nodes run in fp32, in the same order, and every bf16
result is rounded to bf16 (a cast to bf16 and back). That shows what bf16 costs where each node
rounds once and accumulates in fp32, as tensor cores do. It does not show a GPU's fusions, which
round less often, or its bugs: the gate on the built engine covers those.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from ois_client.contract.errors import EngineError
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import EnginePair, GraphPair

_BF16 = int(TensorProto.BFLOAT16)
_FLOAT = int(TensorProto.FLOAT)


def require_onnx_runtime() -> None:
    """Raise `EngineError` if there is no ONNX Runtime, without which no gate can run."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported here ({error}); engines are compared in it before "
            "they are written. Run pip install 'ois-deploy[cpu]', or 'ois-deploy[gpu]' for NVIDIA "
            "GPUs, but not both"
        ) from error


@contextmanager
def open_reference(folder: Path, manifest: Manifest | None = None) -> Iterator[EnginePair]:
    """Open the ONNX engines in `folder` on CPU.

    manifest: describes the engines; read from the folder if it is not given.
    Raises `EngineError` if the engines cannot run, or ONNX Runtime is missing.
    """
    require_onnx_runtime()
    from ois_runtime.engines.onnx_runtime import describe, open_graph

    options = EngineOptions()
    manifest = manifest or Manifest.load(folder)
    files = [folder / engine.file for engine in (manifest.encoder, manifest.decoder)]
    description = f"{describe(options).rpartition(' ')[0]} on CPU, {manifest.precision} graphs"
    if manifest.precision != Precision.BF16:
        yield GraphPair(manifest, description, *(open_graph(file, options) for file in files))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            onnx.save(emulate_bf16(onnx.load(str(file))), str(Path(scratch) / file.name))
        graphs = (open_graph(Path(scratch) / file.name, options) for file in files)
        yield GraphPair(manifest, f"{description}, emulated", *graphs)


def emulate_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp32 copy of a bf16 graph that rounds every bf16 result (see the module)."""
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
