"""OpenVINO on CPU: the fastest CPU backend where the processor multiplies bfloat16 natively."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ois_client.errors import EngineError
from ois_runtime.engines import Arrays, EngineOptions


def describe(options: EngineOptions) -> str:
    return f"openvino {openvino.__version__.split('-')[0]} {options.precision}"


def native_bf16() -> bool:
    """Whether this CPU computes in bfloat16 natively (AVX512_BF16 or AMX)."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_graph(path: Path, options: EngineOptions) -> OpenVinoGraph:
    return OpenVinoGraph(path, options)


class OpenVinoGraph:
    """One ONNX file, compiled for this CPU."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Raises `EngineError` when the file cannot be compiled, or bf16 is not native here."""
        if options.precision == "bf16" and not native_bf16():
            raise EngineError(
                "this CPU has no native bfloat16 (AVX512_BF16 or AMX); use precision f32, or "
                "the backend onnxruntime"
            )
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": options.precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        if options.compiled_cache is not None:
            settings["CACHE_DIR"] = str(options.compiled_cache)
        self._path = path
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {openvino.__version__} cannot load {path}: {error}"
            ) from error
        self.inputs = tuple(port.get_any_name() for port in model.inputs)
        # A compiled output also answers to the names of inner tensors it was fused with, in no
        # order: only the result node still has the graph's own name.
        self.outputs = tuple(
            port.get_node().get_friendly_name().partition("/sink_port_")[0]
            for port in model.outputs
        )

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        # A request runs one call at a time and holds its inputs until the next one: a fresh one
        # costs 0.05 ms, lets threads run side by side and keeps no evicted state in memory.
        request = self._compiled.create_infer_request()
        try:
            # Outputs are copied, for their buffers belong to the request.
            results = request.infer(dict(feeds), share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise EngineError(f"{self._path.name} failed on {shapes}: {error}") from error
        ports = self._compiled.outputs
        return {name: results[port] for name, port in zip(self.outputs, ports, strict=True)}
