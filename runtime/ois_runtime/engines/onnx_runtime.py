"""ONNX Runtime on the CPU.

Arrays are passed as they are: `run` does not copy NumPy inputs and outputs (measured with a 100 MB
state, ONNX Runtime 1.32), so keeping an `OrtValue` per image would gain nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.pair import Arrays

_ERRORS_ONLY = 3


def describe(options: EngineOptions) -> str:
    return f"onnxruntime {onnxruntime.__version__} {options.precision}"


def open_graph(path: Path, options: EngineOptions) -> OrtGraph:
    return OrtGraph(path, options)


class OrtGraph:
    """One ONNX file in an inference session."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Raises `EngineError` if this version cannot run the file."""
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Not `session.set_denormal_as_zero`: it changes the calling thread's mode, also for NumPy.
        # Exported attention masks use -60, not -inf, so that no denormals occur.
        # Without this, threads keep spinning after a run: 10 to 16 ms of CPU time per click with
        # ois-tiny, which the next stage (the other engine, the mask's encoding) lacks.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        self._path = path
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the bindings have no common base class for their errors
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}"
            ) from error
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise EngineError(f"{self._path.name} failed on {shapes}: {error}") from error
        return dict(zip(self.outputs, results, strict=True))
