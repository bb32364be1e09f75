"""The engines of a server: the models `ois_encoder` and `ois_decoder`, called from `ois_segment`.

The encoder's outputs stay in memory that the models' processes share. The decoder reads them there,
as another model or in this process, without a copy.
"""

from __future__ import annotations

import threading
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
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import (
    DECODER_OUTPUTS,
    Arrays,
    Graph,
    HostPrompts,
    check_prompts,
    run_decoder,
)
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import Decoded, RegionDecoder
from ois_runtime.engines.region.pair import open_region_decoder
from ois_runtime.engines.slots import few_slots

ENCODER = "ois_encoder"
DECODER = "ois_decoder"


@dataclass(frozen=True, slots=True)
class SharedMemoryState(ImageState):
    """`arrays` are views of the shared memory that `handles`, Triton's tensors, keep alive."""

    handles: Mapping[str, Any]


class TritonEngines:
    """An `EnginePair` of Triton's models. Thread-safe.

    host_bytes: how much of features and logits was in the CPU's memory at clicks. Where a GPU runs
    the engines, Triton copies it there and back. 0 if features are kept on a GPU.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.host_bytes = 0
        self._counting = threading.Lock()
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
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        outputs = self._decode(state, prompts)
        # Copied, because the views do not keep Triton's memory alive.
        logits, new_coverage = (np.array(outputs[name].as_numpy()) for name in DECODER_OUTPUTS)
        return logits.astype(np.float32, copy=False), new_coverage

    def _decode(self, state: ImageState, prompts: HostPrompts) -> dict[str, Any]:
        """The decoder's outputs as Triton's tensors."""
        check_prompts(prompts, state.geometry)
        clicks = prompts.named()
        features = self._handles(state)
        inputs = [
            pb_utils.Tensor(name, clicks[name]) if name in clicks else features[name]
            for name in self._decoder_inputs
        ]
        outputs = _infer(DECODER, inputs, DECODER_OUTPUTS, self._memory())
        large = [*features.values(), outputs["logits"]]
        on_host = sum(handle.as_numpy().nbytes for handle in large if handle.is_cpu())
        with self._counting:
            self.host_bytes += on_host
        return outputs

    # `DeviceEngines` overrides these three to keep the features in a GPU's memory.

    def _memory(self) -> Any:
        """The memory in which Triton should put the engines' outputs."""
        return pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU)

    def _state(self, handles: Mapping[str, Any], geometry: Geometry) -> ImageState:
        arrays = {name: handle.as_numpy() for name, handle in handles.items()}
        return SharedMemoryState(arrays, geometry, handles)

    def _handles(self, state: ImageState) -> Mapping[str, Any]:
        return state.handles if isinstance(state, SharedMemoryState) else {}


class LocalDecoderEngines(TritonEngines):
    """Triton's encoder with the decoder in this process, for engines that run on a CPU.

    Decoding a click takes a few milliseconds, and this process can read the features. Sending the
    click to another process adds two milliseconds (measured with `ois-tiny` on two cores, see
    docs/serving.md). That does not matter for an encode, and GPU backends do not run in a process
    of their own.
    """

    def __init__(self, manifest: Manifest, decoder: Graph) -> None:
        super().__init__(manifest)
        self.description += ", clicks in the session model's process"
        self._decoder = few_slots(decoder, manifest.decoder)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        return run_decoder(self._decoder, self.manifest, state, prompts)


class LocalRegionEngines(TritonEngines):
    """As `LocalDecoderEngines`, with a decoder that can decode a region."""

    def __init__(self, manifest: Manifest, decoder: RegionDecoder) -> None:
        super().__init__(manifest)
        self.description += ", clicks in the session model's process, on regions"
        self._decoder = decoder

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        decoded = self._decoder.decode(state, prompts, whole=True)
        return decoded.logits, decoded.coverage

    def decode_region(
        self,
        state: ImageState,
        prompts: HostPrompts,
        *,
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> Decoded:
        return self._decoder.decode(state, prompts, boxes=boxes)

    def coarse(self, state: ImageState, prompts: HostPrompts) -> NDArray[np.float32]:
        return self._decoder.coarse(state, prompts)


def local_decoder_engines(
    manifest: Manifest, decoder: Path, parts: Path | None = None
) -> LocalDecoderEngines | LocalRegionEngines:
    """decoder: the ONNX file of `ois_decoder`. parts: the folder of the decoder's parts, if regions
    may be decoded. Raises `EngineError` if it cannot run here.
    """
    try:
        from ois_runtime.engines.onnx_runtime import open_graph
    except ImportError as error:
        raise EngineError(
            f"decoder = process needs ONNX Runtime where Triton's Python models run ({error}); "
            "install 'ois-deploy[cpu]' there, or set decoder = triton"
        ) from error
    options = EngineOptions()
    files = manifest.region.files if manifest.region and manifest.region.accepted else ()
    if parts is not None and files and all((parts / each.file).is_file() for each in files):
        opened = open_region_decoder(manifest, parts, lambda path: open_graph(path, options))
        return LocalRegionEngines(manifest, opened)
    return LocalDecoderEngines(manifest, open_graph(decoder, options))


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
    """The typed error for an error message of another model, or of Triton about it."""
    error = error_from_text(message)
    if error is not None:
        return error
    pb_utils.Logger.log_error(f"ois: {model} failed: {message}")
    if "not healthy" in message or "not ready" in message:
        return ServerUnavailable(f"the model {model} has crashed; try again when it is restarted")
    if "shared memory" in message:
        return ServerOverloaded(
            "the server is out of shared memory; try again with fewer objects, or give it more "
            "(docker run --shm-size)"
        )
    if "queue size" in message:
        return ServerOverloaded(f"too many requests are waiting for the model {model}; try again")
    return EngineError(f"the model {model} failed; see the server's log")
