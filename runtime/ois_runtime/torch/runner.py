"""What runs the two halves of the network: NumPy arrays in, tensors or packed masks out.

`EagerRunner` calls the modules one after another and is the whole engine on a CPU;
`torch_graphs.GraphRunner` replays CUDA graphs. Both answer alike.
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

#: image (h, w, 3) uint8, pos_rows (gh, T), pos_cols (gw, T) -> image state
Encode = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]
#: image state, points, labels, coverage, has_previous -> logits (N, h, w), coverage (N, gh, gw)
Decode = Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a click's answer leaves the device."""

    masks: bool = False
    logits: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """coverage (N, gh, gw) uint8; packed and logits as in `engines.DecodedMasks`, or None."""

    coverage: NDArray[np.uint8]
    packed: NDArray[np.uint8] | None
    logits: NDArray[np.float32] | None


class Runner(Protocol):
    """Thread-safe."""

    def encode(self, image: Arrays) -> dict[str, Tensor]:
        """image: the encoder's three inputs by name."""
        ...

    def decode(self, state: TorchState, prompts: HostPrompts, wanted: Wanted) -> Answer:
        """The decoder on N objects. `prompts` was checked."""
        ...


class EagerRunner:
    """On the CPU."""

    def __init__(self, encode: Encode, decode: Decode) -> None:
        self._encode = encode
        self._decode = decode

    def encode(self, image: Arrays) -> dict[str, Tensor]:
        with torch.inference_mode():
            return self._encode(*(tensor_of(array) for array in image.values()))

    def decode(self, state: TorchState, prompts: HostPrompts, wanted: Wanted) -> Answer:
        with torch.inference_mode():
            logits, coverage = self._decode(state.tensors, *prompts.map(tensor_of))
        scores = logits.numpy()
        packed = None
        if wanted.masks:
            # Not `pack_masks`: on a CPU, NumPy's way around what is surely background wins.
            masks = postprocess(scores, state.geometry).reshape(len(scores), -1)
            packed = np.packbits(masks, axis=1)
        return Answer(coverage.numpy(), packed, scores if wanted.logits else None)


def tensor_of(array: NDArray[Any]) -> Tensor:
    """A copy: PyTorch cannot express that an array is read-only."""
    return torch.tensor(array)
