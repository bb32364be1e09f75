"""Python-based Triton backends under the names of NVIDIA's, for the embedded server.

They run the *unchanged* production `config.pbtxt` of an engine: the backend's name, the
file's name and the tensors are the same; only what computes differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_runtime.engines.base import EngineOptions, Graph
from ois_runtime.serving.limits import engine_limits
from ois_runtime.serving.request_counter import Busy
from ois_runtime.serving.segment_model import error_of


class GraphModel:
    """One engine file behind Triton's interface."""

    def open(self, folder: Path) -> Graph:
        """The engine of a model's version folder. Raises `EngineError`."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            self._limits = engine_limits(args)
            self._graph = self.open(folder)
        except OISError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._busy = Busy()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        with self._busy:
            return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        if request.is_cancelled():
            code = pb_utils.TritonError.CANCELLED
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", code))
        try:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            self._limits.check(inputs)
            outputs = self._graph.run({name: inputs[name] for name in self._graph.inputs})
            wanted = set(request.requested_output_names())
            return pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array) for name, array in outputs.items() if name in wanted]
            )
        except InvalidInput as error:
            return pb_utils.InferenceResponse(error=error_of(error))
        except Exception as error:
            pb_utils.Logger.log_error(f"ois: an engine failed: {error}")
            hidden = EngineError("an engine failed on its input; the server's log says why")
            return pb_utils.InferenceResponse(error=error_of(hidden))


class OnnxRuntimeModel(GraphModel):
    """`model.onnx` in ONNX Runtime on CPU."""

    def open(self, folder: Path) -> Graph:
        from ois_runtime.engines.onnx_runtime import open_graph

        return open_graph(folder / "model.onnx", EngineOptions())


class TensorRTModel(GraphModel):
    """`model.plan` in TensorRT, where its GPU and TensorRT are; elsewhere says what is missing."""

    def open(self, folder: Path) -> Graph:
        from ois_runtime.tensorrt.engine import open_graph

        return open_graph(folder / "model.plan", EngineOptions(device="cuda"))
