"""Runs an exported engine as a Triton model, for the embedded server.

NVIDIA's container has backends named `onnxruntime` and `tensorrt`. The embedded server lacks
them, so `ois_runtime/embedded/staging.py` adds Python-based backends with these names, which run
the classes below. `config.pbtxt`, engine file and tensors are the same as in production.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.pair import Graph
from ois_runtime.serving.configuration import engine_limits, opens_at_first_request
from ois_runtime.serving.triton_io import (
    cancelled_response,
    error_response,
    initialization_error,
    make_shared_memory_private,
    read_inputs,
    response,
)


class EngineModel:
    """A Triton model that runs one engine file."""

    def open(self, folder: Path) -> Graph:
        """Open the engine in a model's version folder. Raises `EngineError`."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        make_shared_memory_private()
        self._folder = Path(args["model_repository"]) / args["model_version"]
        self._graph: Graph | None = None
        try:
            self._limits = engine_limits(args)
            if not opens_at_first_request(args):
                self._graph = self.open(self._folder)
        except OISError as error:
            raise initialization_error(error) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        if request.is_cancelled():
            return cancelled_response()
        try:
            inputs = read_inputs(request)
            self._limits.check(inputs)
            if self._graph is None:
                self._graph = self.open(self._folder)
            outputs = self._graph.run({name: inputs[name] for name in self._graph.inputs})
            return response(request, outputs)
        except InvalidInput as error:
            return error_response(error)
        except Exception as error:
            pb_utils.Logger.log_error(f"ois: an engine failed: {error}")
            return error_response(EngineError("an engine failed; see the server's log"))


class OnnxRuntimeModel(EngineModel):
    """Runs `model.onnx` with ONNX Runtime on the CPU."""

    def open(self, folder: Path) -> Graph:
        try:
            from ois_runtime.engines.onnx_runtime import open_graph
        except ImportError as error:
            raise EngineError(
                f"ONNX Runtime cannot be imported ({error}); run pip install 'ois-deploy[cpu]', or "
                "serve with PyTorch: ois serve --device"
            ) from error
        return open_graph(folder / "model.onnx", EngineOptions())


class TensorRTModel(EngineModel):
    """Runs `model.plan` with TensorRT. Fails to load where TensorRT or its GPU is missing."""

    def open(self, folder: Path) -> Graph:
        from ois_runtime.tensorrt.engine import open_graph

        return open_graph(folder / "model.plan", EngineOptions(device="cuda"))
