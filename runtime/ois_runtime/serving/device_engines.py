"""A server's engines where features stay on a GPU: PyTorch in this process, or Triton's models.

    torch_device     `TorchEngines` in the process of `ois_segment`: encoder, clicks, masks and
                     the feature store share one address space, and nothing crosses processes
    feature_device   Triton's engine models (TensorRT, ONNX Runtime): their outputs come as device
                     memory through DLPack, go back as they are, and masks are made there

The second was run with `cpu` as the device, on the embedded server; neither was run on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray
from torch import Tensor

from ois_client.contract.errors import EngineError
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.base import (
    DECODER_OUTPUTS,
    DecodedMasks,
    EngineBackend,
    EngineOptions,
    EnginePair,
    load_engines,
)
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest
from ois_runtime.serving.configuration import ServingOptions
from ois_runtime.serving.triton_engines import TritonEngines
from ois_runtime.torch.device import find_device
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.postprocess import pack_masks


def torch_engines(manifest: Manifest, options: ServingOptions) -> EnginePair:
    """The network of `options.checkpoint` on `options.torch_device`.

    Raises `EngineError` when it is not the one that the repository's engines were made from, or
    there is no such GPU; `CheckpointError` for a damaged file.
    """
    engines = load_engines(
        Path(options.checkpoint),
        EngineBackend.TORCH,
        EngineOptions(device=options.torch_device, precision=options.torch_precision),
    )
    if engines.manifest.checkpoint_sha256 != manifest.checkpoint_sha256:
        raise EngineError(
            f"{options.checkpoint} is not the checkpoint that this model repository was made from "
            f"(sha256 {manifest.checkpoint_sha256[:12]}…)"
        )
    return engines


@dataclass(frozen=True, slots=True, eq=False)
class DeviceState(TorchState):
    """`tensors` are PyTorch's views of `handles`, Triton's own tensors on the device."""

    handles: Mapping[str, Any]


class DeviceEngines(TritonEngines):
    """An `EnginePair` and `MaskEngines` of Triton's models. Thread-safe."""

    def __init__(self, manifest: Manifest, device: str) -> None:
        """Raises `EngineError` when PyTorch cannot use the device."""
        super().__init__(manifest)
        self._device = find_device(device, "f32")
        self.description += f", features on {self._device}"

    def decode(
        self,
        state: ImageState,
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        coverage: NDArray[np.uint8],
        has_previous: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        logits, new_coverage = self._tensors(state, points, labels, coverage, has_previous)
        return _host(logits.float()), _host(new_coverage)

    def decode_masks(
        self,
        state: ImageState,
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        coverage: NDArray[np.uint8],
        has_previous: NDArray[np.bool_],
        *,
        want_logits: bool,
    ) -> DecodedMasks:
        logits, new_coverage = self._tensors(state, points, labels, coverage, has_previous)
        logits = logits.float()
        return DecodedMasks(
            _host(pack_masks(logits, state.geometry)),
            _host(new_coverage),
            _host(logits) if want_logits else None,
        )

    def _tensors(self, state: ImageState, *prompts: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
        outputs = self._decode(state, *prompts)
        logits, new_coverage = (torch.from_dlpack(outputs[name]) for name in DECODER_OUTPUTS)
        return logits, new_coverage

    def _memory(self) -> Any:
        if self._device.type == "cpu":
            return super()._memory()
        return pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, self._device.index)

    def _state(self, handles: Mapping[str, Any], geometry: Geometry) -> DeviceState:
        tensors = {name: torch.from_dlpack(handle) for name, handle in handles.items()}
        return DeviceState.of(tensors, geometry, handles=handles)

    def _handles(self, state: ImageState) -> Mapping[str, Any]:
        return state.handles if isinstance(state, DeviceState) else {}


def _host(tensor: Tensor) -> NDArray[Any]:
    """A copy of its own: Triton's memory goes with its handle."""
    return np.array(tensor.cpu().numpy())
