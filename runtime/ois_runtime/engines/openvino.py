"""OpenVINO on CPU: the fastest CPU backend where the processor multiplies bfloat16 natively."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_runtime.engines.base import Arrays, EngineOptions
from ois_runtime.engines.openvino_mixed import result_name, split
from ois_runtime.engines.signal_stack import signal_stack_kept


def describe(options: EngineOptions) -> str:
    return f"openvino {openvino.__version__.split('-')[0]} {options.precision}"


def native_bf16() -> bool:
    """Whether this CPU computes in bfloat16 natively (AVX512_BF16 or AMX)."""
    with signal_stack_kept():
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_graph(path: Path, options: EngineOptions) -> OpenVinoGraph:
    return OpenVinoGraph(path, options)


class OpenVinoGraph:
    """One ONNX file, compiled for this CPU: in bf16 as two parts, see `openvino_mixed`."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Raises `EngineError` when the file cannot be compiled, or bf16 is not native here."""
        if options.precision == "bf16" and not native_bf16():
            raise EngineError(
                "this CPU has no native bfloat16 (AVX512_BF16 or AMX); use precision f32, or "
                "the backend onnxruntime"
            )
        self._path = path
        try:
            with signal_stack_kept():
                self._load(path, options)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {openvino.__version__} cannot load {path}: {error}"
            ) from error

    def _load(self, path: Path, options: EngineOptions) -> None:
        core = openvino.Core()
        model = core.read_model(str(path))
        self.inputs = tuple(port.get_any_name() for port in model.inputs)
        self.outputs = tuple(result_name(result) for result in model.get_results())
        if options.precision == "bf16":
            front, back = split(model, core.read_model(str(path)))
            halves = [(front, "f32"), (back, "bf16")]
        else:
            halves = [(model, options.precision)]
        self._parts = [
            _Part(core, half, precision, options)
            for half, precision in halves
            if half.get_results()
        ]

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        known = dict(feeds)
        try:
            with signal_stack_kept():
                for part in self._parts:
                    known.update(part.run(known))
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise EngineError(f"{self._path.name} failed on {shapes}: {error}") from error
        return {name: known[name] for name in self.outputs}


class _Part:
    """A compiled model and the names of its inputs and results."""

    def __init__(
        self, core: openvino.Core, model: openvino.Model, precision: str, options: EngineOptions
    ) -> None:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        if options.compiled_cache is not None:
            settings["CACHE_DIR"] = str(options.compiled_cache)
        self._inputs = [port.get_any_name() for port in model.inputs]
        # A compiled output also answers to the names of inner tensors it was fused with, in no
        # order: only the result node still has the graph's own name.
        self._results = [result_name(result) for result in model.get_results()]
        self._compiled = core.compile_model(model, "CPU", settings)

    def run(self, known: Arrays) -> dict[str, NDArray[np.generic]]:
        # A request runs one call at a time and holds its inputs until the next one: a fresh one
        # costs 0.05 ms, lets threads run side by side and keeps no evicted state in memory.
        request = self._compiled.create_infer_request()
        # Outputs are copied, for their buffers belong to the request.
        given = {name: known[name] for name in self._inputs}
        answer = request.infer(given, share_inputs=True, share_outputs=False)
        ports = self._compiled.outputs
        return {name: answer[port] for name, port in zip(self._results, ports, strict=True)}
