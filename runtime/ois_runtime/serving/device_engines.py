"""Engines that keep an image's features on a GPU. `ServingOptions` chooses one of two ways.

    torch_device     The network runs with PyTorch in the process of `ois_segment`, together with
                     the feature store. No tensor crosses a process boundary.
    feature_device   Triton's engine models (TensorRT, ONNX Runtime) run the network. Their outputs
                     are device memory, exchanged through DLPack, and masks are made on the device.

`feature_device` was tested with `cpu` on the embedded server. Neither was run on a GPU.
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
from ois_runtime.engines.backends import (
    Compiling,
    EngineBackend,
    EngineOptions,
    Precision,
    load_engines,
)
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import DECODER_OUTPUTS, DecodedMasks, EnginePair, HostPrompts
from ois_runtime.serving.configuration import ServingOptions
from ois_runtime.serving.triton_engines import TritonEngines
from ois_runtime.torch.device import find_device
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.masks import pack_masks


def torch_engines(manifest: Manifest, options: ServingOptions) -> EnginePair:
    """The network of `options.checkpoint` on `options.torch_device`.

    Raises `EngineError` if the repository's engines were made from another checkpoint or the device
    does not exist, and `CheckpointError` if the file is damaged.
    """
    engines = load_engines(
        Path(options.checkpoint),
        EngineBackend.TORCH,
        EngineOptions(
            device=options.torch_device,
            precision=Precision.parse(options.torch_precision),
            compile=Compiling.parse(options.torch_compile),
        ),
    )
    if engines.manifest.checkpoint_sha256 != manifest.checkpoint_sha256:
        raise EngineError(
            f"got the checkpoint {options.checkpoint}; expected the one that this model repository "
            f"was made from (sha256 {manifest.checkpoint_sha256[:12]}…). Set OIS_CHECKPOINT to it"
        )
    return engines


@dataclass(frozen=True, slots=True, eq=False)
class DeviceState(TorchState):
    """`tensors` are PyTorch's views of `handles`, Triton's tensors on the device."""

    handles: Mapping[str, Any]


class DeviceEngines(TritonEngines):
    """An `EnginePair` and `MaskEngines` of Triton's models. Thread-safe."""

    def __init__(self, manifest: Manifest, device: str) -> None:
        """Raises `EngineError` if PyTorch cannot use the device."""
        super().__init__(manifest)
        self._device = find_device(device, Precision.FP32)
        self.description += f", features on {self._device}"

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        logits, new_coverage = self._tensors(state, prompts)
        return _host(logits.float()), _host(new_coverage)

    def decode_masks(
        self, state: ImageState, prompts: HostPrompts, *, want_logits: bool
    ) -> DecodedMasks:
        logits, new_coverage = self._tensors(state, prompts)
        logits = logits.float()
        return DecodedMasks(
            _host(pack_masks(logits, state.geometry)),
            _host(new_coverage),
            _host(logits) if want_logits else None,
        )

    def _tensors(self, state: ImageState, prompts: HostPrompts) -> tuple[Tensor, Tensor]:
        outputs = self._decode(state, prompts)
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
    """A copy in host memory, because Triton's memory is freed with its handle."""
    return np.array(tensor.cpu().numpy())
