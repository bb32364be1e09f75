"""The click decoder in three parts, in PyTorch on the CPU, for `engines.region`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ois_client.contract.clicks import PROMPT_NAMES
from ois_client.contract.geometry import Geometry
from ois_client.contract.transport import Region
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import Decoded, RegionDecoder, RegionForm
from ois_runtime.engines.region.pair import region_form
from ois_runtime.torch.image_state import TorchState

if TYPE_CHECKING:
    from ois_runtime.torch.engine import TorchEngines


class Parts(Protocol):
    """`ois_network.region.DecoderParts`: modules in fp32, and the names of their inputs."""

    @property
    def trunk(self) -> Callable[..., tuple[Tensor, Tensor]]: ...
    @property
    def tail(self) -> Callable[[dict[str, Tensor]], Tensor]: ...
    @property
    def crop(self) -> Callable[[dict[str, Tensor]], Tensor]: ...
    @property
    def tail_inputs(self) -> tuple[str, ...]: ...
    @property
    def crop_inputs(self) -> tuple[str, ...]: ...


class TorchRegionDecoder(RegionDecoder):
    """A `RegionDecoder` whose graphs are modules. It reads the image state as tensors."""

    def __init__(self, form: RegionForm, parts: Parts) -> None:
        tail = _TailGraph(parts.tail, parts.tail_inputs)
        crop = _TailGraph(parts.crop, parts.crop_inputs)
        super().__init__(form, _TrunkGraph(parts.trunk), tail, crop)

    def _maps(self, state: ImageState) -> Mapping[str, Any]:
        return state.tensors if isinstance(state, TorchState) else state.arrays


class TorchRegionEngines:
    """The torch engine on a CPU, with a decoder that can decode a region."""

    def __init__(self, engines: TorchEngines, regions: TorchRegionDecoder) -> None:
        self.manifest = engines.manifest
        self.description = engines.description
        self._engines = engines
        self._regions = regions

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> TorchState:
        return self._engines.encode(image, geometry)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        return self._engines.decode(state, prompts)

    def decode_region(
        self,
        state: ImageState,
        prompts: HostPrompts,
        *,
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> Decoded:
        return self._regions.decode(state, prompts, boxes=boxes)

    def coarse(self, state: ImageState, prompts: HostPrompts) -> NDArray[np.float32]:
        return self._regions.coarse(state, prompts)


def with_regions(
    engines: TorchEngines,
    parts_of: Callable[[Sequence[float]], Parts],
    path: Path,
    options: EngineOptions,
) -> TorchEngines | TorchRegionEngines:
    """The same engines, decoding regions if the folder `path` says that this is good enough.

    parts_of: the decoder's parts, from the weights of the coarse map.
    """
    usual = options.device == "cpu" and options.precision is Precision.FP32
    if not usual or options.region is not Region.AUTO or not (path / MANIFEST_FILE).is_file():
        return engines
    region = Manifest.load(path).region
    if region is None or not region.accepted:
        return engines
    form = region_form(engines.manifest, region)
    return TorchRegionEngines(engines, TorchRegionDecoder(form, parts_of(region.coarse)))


class _TrunkGraph:
    """Takes the whole image state, as tensors."""

    inputs: tuple[str, ...] = ()  # all
    outputs = ("path", "coarse")

    def __init__(self, trunk: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self._trunk = trunk

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            given = {name: _tensor(value) for name, value in feeds.items()}
            prompts = [given.pop(name) for name in PROMPT_NAMES]
            results = self._trunk(given, *prompts)
            return {n: r.numpy() for n, r in zip(self.outputs, results, strict=True)}


class _TailGraph:
    outputs = ("logits",)

    def __init__(
        self, module: Callable[[dict[str, Tensor]], Tensor], inputs: tuple[str, ...]
    ) -> None:
        self._module = module
        self.inputs = inputs

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            given = {name: _channels_last(_tensor(feeds[name])) for name in self.inputs}
            return {"logits": self._module(given).numpy()}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _tensor(value: Any) -> Tensor:
    """A tensor; arrays are copied, because tensors cannot be read-only."""
    return value if isinstance(value, Tensor) else torch.tensor(value)
