"""The click decoder in three parts, in PyTorch on the CPU, for `engines.region`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ois_client.contract.clicks import PROMPT_NAMES
from ois_client.contract.geometry import Geometry
from ois_client.contract.transport import Region
from ois_network.region import (
    TRUNK_OUTPUTS,
    CoarseHead,
    RegionTail,
    Tail,
    Trunk,
    crop_names,
    tail_names,
)
from ois_network.split import ClickDecoder
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


class TorchRegionDecoder(RegionDecoder):
    """A `RegionDecoder` whose graphs are modules. It reads the image state as tensors."""

    def __init__(self, form: RegionForm, decoder: ClickDecoder, coarse: Sequence[float]) -> None:
        """decoder: on the CPU. coarse: see `RegionParts`."""
        config = decoder.network.config
        head = CoarseHead(config.head_features).requires_grad_(False)
        head.conv.weight.copy_(torch.tensor(coarse[:-1]).view(1, -1, 1, 1))
        if head.conv.bias is not None:
            head.conv.bias.fill_(coarse[-1])
        dtype = decoder.network.mask_head.scratch.output_conv1.weight.dtype
        names = (), tail_names(config), crop_names(config)
        trunk = _TrunkGraph(Trunk(decoder, head.to(dtype)))
        tail, crop = (
            _TailGraph(part, inputs, dtype)
            for part, inputs in ((Tail(decoder), names[1]), (RegionTail(decoder.network), names[2]))
        )
        super().__init__(form, trunk, tail, crop)

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


def with_regions(
    engines: TorchEngines, decoder: ClickDecoder, path: Path, options: EngineOptions
) -> TorchEngines | TorchRegionEngines:
    """The same engines, decoding regions if the folder `path` says that this is good enough."""
    usual = options.device == "cpu" and options.precision is Precision.FP32
    if not usual or options.region is not Region.AUTO or not (path / MANIFEST_FILE).is_file():
        return engines
    parts = Manifest.load(path).region
    if parts is None or not parts.accepted:
        return engines
    form = region_form(engines.manifest, parts)
    return TorchRegionEngines(engines, TorchRegionDecoder(form, decoder, parts.coarse))


class _TrunkGraph:
    """Takes the whole image state, as tensors."""

    outputs = TRUNK_OUTPUTS

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self.inputs: tuple[str, ...] = ()  # all

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            given = {name: _tensor(value) for name, value in feeds.items()}
            prompts = [given.pop(name) for name in PROMPT_NAMES]
            results = self._trunk(given, *prompts)
            return {n: r.float().numpy() for n, r in zip(self.outputs, results, strict=True)}


class _TailGraph:
    outputs = ("logits",)

    def __init__(self, module: nn.Module, inputs: tuple[str, ...], dtype: torch.dtype) -> None:
        self._module = module
        self._dtype = dtype
        self.inputs = inputs

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            given = {name: self._given(_tensor(feeds[name])) for name in self.inputs}
            return {"logits": self._module(given).float().numpy()}

    def _given(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self._dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _tensor(value: Any) -> Tensor:
    """A tensor; arrays are copied, because tensors cannot be read-only."""
    return value if isinstance(value, Tensor) else torch.tensor(value)
