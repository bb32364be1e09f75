"""TensorRT in process: an image's features stay on the GPU, and masks are made there.

    encode   image ─► GPU ─► plan ─► `PlanState`, in GPU memory
    click    `PlanState` + prompts ─► plan ─► logits in GPU memory ─► masks, one bit per pixel

Masks are packed by PyTorch, if it is installed with CUDA. It reads TensorRT's memory without a
copy. Otherwise the logits are copied and the masks are made on the CPU. *Not run on a GPU yet*;
tests run it with the stand-in for TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.image_state import ImageState, check_depth
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import (
    DECODER_OUTPUTS,
    Arrays,
    DecodedMasks,
    HostPrompts,
    check_array,
    check_halves,
    check_prompts,
)
from ois_runtime.engines.pixels import postprocess
from ois_runtime.tensorrt.engine import PlanGraph, describe, open_graph
from ois_runtime.tensorrt.memory import DeviceArray

Part = TypeVar("Part")


def open_pair(folder: Path, options: EngineOptions) -> PlanPair:
    """Load the plans in `folder` for `options.device`.

    Raises `EngineError` if the folder or a plan is missing or damaged, or cannot run here.
    """
    manifest = Manifest.load(folder)
    description = describe(options)
    encoder = open_graph(folder / manifest.encoder.file, options)
    decoder = open_graph(folder / manifest.decoder.file, options)
    return PlanPair(manifest, description, encoder, decoder, packs=_torch_has_cuda())


class PlanArrays(Mapping[str, NDArray[np.generic]]):
    """Features as read-only NumPy arrays, each copied from the GPU at every access.

    Clicks need none of them. Depth and order maps need the depth.
    """

    def __init__(self, tensors: Mapping[str, DeviceArray]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        array = self._tensors[name].numpy()
        array.flags.writeable = False
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True, slots=True, eq=False)
class PlanState(ImageState):
    """An `ImageState` on a GPU. tensors: there; `arrays` copies them when accessed."""

    tensors: Mapping[str, DeviceArray]

    @classmethod
    def of(cls, tensors: Mapping[str, DeviceArray], geometry: Geometry) -> PlanState:
        """Raises `EngineError` if the depth is missing, has a wrong shape or is not finite."""
        return cls(PlanArrays(tensors), geometry, tensors)

    def __post_init__(self) -> None:
        # The depth itself stays where it is: only its shape is checked.
        small = ("depth_min", "depth_max")
        seen = {n: a.numpy() if n in small else a for n, a in self.tensors.items()}
        check_depth(seen, self.geometry)

    @property
    def nbytes(self) -> int:
        """Size of all tensors on the GPU in bytes."""
        return sum(array.nbytes for array in self.tensors.values())


class PlanPair:
    """An `EnginePair` and `MaskEngines` of two plans on one GPU. packs: masks are made there."""

    def __init__(
        self,
        manifest: Manifest,
        description: str,
        encoder: PlanGraph,
        decoder: PlanGraph,
        *,
        packs: bool,
    ) -> None:
        """Raises `EngineError` if the two plans do not belong together."""
        check_halves(manifest, encoder, decoder)
        self.manifest = manifest
        self.description = description
        self.packs = packs
        self._encoder, self._decoder = encoder, decoder

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> PlanState:
        check_array("image", image, (geometry.network_height, geometry.network_width, 3), np.uint8)
        rows, columns = geometry.position_matrices(self.manifest.position_table)
        feeds: Arrays = {"image": image, "pos_rows": rows, "pos_cols": columns}
        return PlanState.of(self._encoder.run_with(feeds, dict, keep=True), geometry)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        parts = self._run(state, prompts, lambda logits, new: (_scores(logits), new.numpy()))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def decode_masks(
        self, state: ImageState, prompts: HostPrompts, *, want_logits: bool
    ) -> DecodedMasks:
        def use(logits: DeviceArray, new_coverage: DeviceArray) -> DecodedMasks:
            host = _scores(logits) if want_logits or not self.packs else None
            if self.packs:
                packed = _pack(logits, state.geometry)
            else:
                masks = postprocess(_scores(logits) if host is None else host, state.geometry)
                packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
            return DecodedMasks(packed, new_coverage.numpy(), host if want_logits else None)

        parts = self._run(state, prompts, use)
        if len(parts) == 1:
            return parts[0]
        scores = [part.logits for part in parts if part.logits is not None]
        return DecodedMasks(
            np.concatenate([part.packed for part in parts]),
            np.concatenate([part.coverage for part in parts]),
            np.concatenate(scores) if scores else None,
        )

    def _run(
        self,
        state: ImageState,
        prompts: HostPrompts,
        use: Callable[[DeviceArray, DeviceArray], Part],
    ) -> list[Part]:
        """Call `use` with logits and coverage, once for as many objects as the plan takes."""
        check_prompts(prompts, state.geometry)
        # Features that were stored in a file are uploaded by the plan, once.
        features = state.tensors if isinstance(state, PlanState) else state.arrays
        most = self._decoder.most_objects
        parts = []
        for start in range(0, len(prompts.labels), most):
            few = prompts.map(itemgetter(slice(start, start + most)))
            feeds: dict[str, Any] = {**features, **few.named()}
            parts.append(self._decoder.run_with(feeds, self._checked(state, few, use)))
        return parts

    def _checked(
        self,
        state: ImageState,
        prompts: HostPrompts,
        use: Callable[[DeviceArray, DeviceArray], Part],
    ) -> Callable[[dict[str, DeviceArray]], Part]:
        count, geometry = len(prompts.labels), state.geometry
        expected = (
            (count, geometry.network_height, geometry.network_width),
            (count, *geometry.coverage_shape),
        )

        def checked(results: dict[str, DeviceArray]) -> Part:
            logits, new_coverage = (results[name] for name in DECODER_OUTPUTS)
            if (logits.shape, new_coverage.shape) != expected:
                raise EngineError(
                    f"{self.manifest.name}: the decoder returned logits {logits.shape} and "
                    f"coverage {new_coverage.shape}; expected {expected[0]} and {expected[1]}"
                )
            return use(logits, new_coverage)

        return checked


def _scores(logits: DeviceArray) -> NDArray[np.float32]:
    return logits.numpy().astype(np.float32, copy=False)


def _pack(logits: DeviceArray, geometry: Geometry) -> NDArray[np.uint8]:
    """Packed masks, made on the GPU that holds the logits."""
    import torch

    from ois_runtime.torch.masks import pack_masks

    with torch.inference_mode():
        packed = pack_masks(logits.tensor().float(), geometry)
        return np.asarray(packed.cpu().numpy())


def _torch_has_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
