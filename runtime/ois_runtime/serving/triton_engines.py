"""The engines of a server: Triton's other models, called from inside a model of ours.

What the encoder returns stays where it is, in memory that both processes share, and goes to
the decoder as it is, in another process or in this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError, OISError, ServerOverloaded, ServerUnavailable
from ois_client.contract.geometry import Geometry
from ois_client.wire import error_from_text
from ois_runtime.engines.base import (
    CLICK_INPUTS,
    DECODER_OUTPUTS,
    Arrays,
    EngineOptions,
    Graph,
    run_decoder,
)
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest

ENCODER = "ois_encoder"
DECODER = "ois_decoder"


@dataclass(frozen=True, slots=True)
class SharedState(ImageState):
    """`arrays` are views of `tensors`, Triton's handles to the memory they lie in."""

    tensors: Mapping[str, Any]


class TritonEngines:
    """An `EnginePair`. Thread-safe."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.description = f"tritonserver {manifest.target} {manifest.precision}"
        self._encoder_outputs = [spec.name for spec in manifest.encoder.outputs]
        self._encoder_inputs = [spec.name for spec in manifest.encoder.inputs]
        self._decoder_inputs = [spec.name for spec in manifest.decoder.inputs]

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        rows, columns = geometry.position_matrices(self.manifest.position_table)
        feeds: Arrays = {"image": image, "pos_rows": rows, "pos_cols": columns}
        inputs = [pb_utils.Tensor(name, feeds[name]) for name in self._encoder_inputs]
        return self._state(_infer(ENCODER, inputs, self._encoder_outputs, self._memory()), geometry)

    def decode(
        self,
        state: ImageState,
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        coverage: NDArray[np.uint8],
        has_previous: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        outputs = self._decode(state, points, labels, coverage, has_previous)
        # Copied: the views do not keep Triton's memory alive.
        logits, new_coverage = (np.array(outputs[name].as_numpy()) for name in DECODER_OUTPUTS)
        return logits.astype(np.float32, copy=False), new_coverage

    def _decode(self, state: ImageState, *prompts: NDArray[np.generic]) -> dict[str, Any]:
        """Triton's handles of the decoder's outputs."""
        clicks = dict(zip(CLICK_INPUTS, prompts, strict=True))
        kept = self._handles(state)
        inputs = [
            pb_utils.Tensor(name, clicks[name]) if name in clicks else kept[name]
            for name in self._decoder_inputs
        ]
        return _infer(DECODER, inputs, DECODER_OUTPUTS, self._memory())

    # What `serving_device.DeviceEngines` does in other memory:

    def _memory(self) -> Any:
        """Where outputs of the engines should lie."""
        return pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU)

    def _state(self, handles: Mapping[str, Any], geometry: Geometry) -> ImageState:
        arrays = {name: handle.as_numpy() for name, handle in handles.items()}
        return SharedState(arrays, geometry, handles)

    def _handles(self, state: ImageState) -> Mapping[str, Any]:
        return state.tensors if isinstance(state, SharedState) else {}


class NearEngines(TritonEngines):
    """Triton's encoder, and the decoder in this process: for engines that run on a CPU.

    A click is a few milliseconds of work on features that this process can read where they are.
    Handing it to another process takes two more (measured with `ois-tiny` on two cores: see
    docs/serving.md), which an encode does not notice and a GPU's backend, which is no process of
    its own, does not have.
    """

    def __init__(self, manifest: Manifest, decoder: Graph) -> None:
        super().__init__(manifest)
        self.description += ", clicks in the session model's process"
        self._decoder = decoder

    def decode(
        self,
        state: ImageState,
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        coverage: NDArray[np.uint8],
        has_previous: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        prompts = (points, labels, coverage, has_previous)
        return run_decoder(self._decoder, self.manifest, state, *prompts)


def near_engines(manifest: Manifest, decoder: Path) -> NearEngines:
    """decoder: the graph of `ois_decoder`. Raises `EngineError` when it cannot run here."""
    try:
        from ois_runtime.engines.onnx_runtime import open_graph
    except ImportError as error:
        raise EngineError(
            f"decoder = process needs ONNX Runtime where Triton's Python models run ({error}); "
            "install onnxruntime there, or set decoder = triton"
        ) from error
    return NearEngines(manifest, open_graph(decoder, EngineOptions()))


def _infer(
    model: str, inputs: Sequence[Any], outputs: Sequence[str], memory: Any
) -> dict[str, Any]:
    request = pb_utils.InferenceRequest(
        model_name=model,
        inputs=list(inputs),
        requested_output_names=list(outputs),
        preferred_memory=memory,
    )
    response = request.exec()
    if response.has_error():
        raise engine_error(model, response.error().message())
    tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
    return {name: tensors[name] for name in outputs}


def engine_error(model: str, message: str) -> OISError:
    """The typed error for what another model, or Triton for it, answered."""
    ours = error_from_text(message)
    if ours is not None:
        return ours
    pb_utils.Logger.log_error(f"ois: {model} failed: {message}")
    if "not healthy" in message or "not ready" in message:
        return ServerUnavailable(f"the model {model} died; the server needs a moment, try again")
    if "shared memory" in message:
        return ServerOverloaded(
            "the server is out of shared memory; try again, with fewer objects, or give it more "
            "(docker run --shm-size)"
        )
    if "queue size" in message:
        return ServerOverloaded(f"too many requests wait for the model {model}; try again")
    return EngineError(f"the model {model} failed; the server's log says why")
