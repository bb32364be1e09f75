"""Runs the two halves of the network: NumPy arrays in, tensors, masks or logits out.

`EagerRunner` calls the modules directly, on the CPU. `graphs.GraphRunner` replays CUDA graphs on a
GPU. Both return the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ois_runtime.engines.pair import Arrays, HostPrompts
from ois_runtime.engines.pixels import postprocess
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.resize import resize

#: image (h, w, 3) uint8, pos_rows (gh, T), pos_cols (gw, T) -> image state
Encode = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]
#: image state, points, labels, coverage, has_previous -> logits (N, h, w), coverage (N, gh, gw)
Decode = Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which results of a click are copied from the device, besides the coverage."""

    masks: bool = False
    logits: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The result of a click. coverage: (N, gh, gw) uint8; packed, logits: see `DecodedMasks`."""

    coverage: NDArray[np.uint8]
    packed: NDArray[np.uint8] | None
    logits: NDArray[np.float32] | None


class Runner(Protocol):
    """Runs encodes and clicks. Thread-safe."""

    def encode(self, image: Arrays, size: tuple[int, int]) -> dict[str, Tensor]:
        """Run the encoder. image: its inputs by name, in the order of `ENCODER_INPUTS`.

        size: (h, w), to which pixels of another size are resized on the device.
        """
        ...

    def decode(self, state: TorchState, prompts: HostPrompts, wanted: Wanted) -> Answer:
        """Run the decoder on N objects. `prompts` must have passed `check_prompts`."""
        ...


class EagerRunner:
    """Runs the modules directly on the CPU."""

    def __init__(self, encode: Encode, decode: Decode) -> None:
        self._encode = encode
        self._decode = decode

    def encode(self, image: Arrays, size: tuple[int, int]) -> dict[str, Tensor]:
        with torch.inference_mode():
            pixels, *tables = (tensor_of(array) for array in image.values())
            return self._encode(resize(pixels, *size), *tables)

    def decode(self, state: TorchState, prompts: HostPrompts, wanted: Wanted) -> Answer:
        with torch.inference_mode():
            logits, coverage = self._decode(state.tensors, *prompts.map(tensor_of))
        scores = logits.numpy()
        packed = None
        if wanted.masks:
            # Not `pack_masks`: on a CPU NumPy is faster, because it skips the background.
            masks = postprocess(scores, state.geometry).reshape(len(scores), -1)
            packed = np.packbits(masks, axis=1)
        return Answer(coverage.numpy(), packed, scores if wanted.logits else None)


def tensor_of(array: NDArray[Any]) -> Tensor:
    """A copy of `array`, because tensors cannot be read-only."""
    return torch.tensor(array)
