"""The network as the paper describes it, with the interface of an engine (`torch:CHECKPOINT`).

It is the reference for the quality of exported engines: `OISNetwork` without cached keys and values
and without rewrites, but with the store, checks and postprocessing of `local:`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ois_client.contract.geometry import Geometry
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_network.network import ImageFeatures
from ois_network.order import coverage_of_logits
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.local import LocalTransport
from ois_runtime.engines.pair import HostPrompts, check_prompts
from ois_runtime.torch.engine import checkpoint_manifest
from ois_runtime.torch.runner import tensor_of

_LEVELS = ("level_1", "level_2", "level_3", "level_4")


def open_transport(checkpoint: str | Path, *, threads: int | None = None) -> LocalTransport:
    """Open a checkpoint in fp32 on the CPU.

    threads: for all of PyTorch in this process; None for its default. Raises `CheckpointError` if
    the file is not an OIS checkpoint.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return LocalTransport(UnrewrittenEngines(Path(checkpoint)))


class UnrewrittenEngines:
    """An `EnginePair` that calls `OISNetwork.encode` and `OISNetwork.click`."""

    def __init__(self, path: Path) -> None:
        loaded = load_checkpoint(path)
        self._network = loaded.network
        self.manifest = checkpoint_manifest(path, loaded)
        self.description = f"torch {torch.__version__} fp32, unrewritten"

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        """As `EnginePair.encode`. image: (h, w, 3) uint8 RGB at the geometry's network size."""
        rows, columns = geometry.position_matrices(self.manifest.position_table)
        with torch.inference_mode():
            features = self._network.encode(
                tensor_of(image).unsqueeze(0), tensor_of(rows), tensor_of(columns)
            )
            arrays = dict(zip(_LEVELS, features.levels, strict=True))
            arrays["depth"] = features.depth
            if features.detail is not None:
                arrays["detail"] = features.detail
            arrays["depth_min"] = features.depth.amin((1, 2))
            arrays["depth_max"] = features.depth.amax((1, 2))
        return ImageState({name: value.numpy() for name, value in arrays.items()}, geometry)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """As `EnginePair.decode`."""
        check_prompts(prompts, state.geometry)
        levels = [tensor_of(state.arrays[name]) for name in _LEVELS]
        detail = tensor_of(state.arrays["detail"]) if "detail" in state.arrays else None
        features = ImageFeatures(levels, tensor_of(state.arrays["depth"]), detail)
        cell = self._network.config.coverage_stride
        with torch.inference_mode():
            logits = self._network.click(features, prompts.map(tensor_of))
            return logits.numpy(), coverage_of_logits(logits, cell).numpy()
