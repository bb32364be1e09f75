"""An `EnginePair` whose decoder can decode a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest, RegionParts
from ois_runtime.engines.pair import Graph, HostPrompts, run_encoder
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import Decoded, RegionDecoder, RegionForm
from ois_runtime.engines.region.windows import TailForm
from ois_runtime.engines.slots import few_slots


@runtime_checkable
class RegionEngines(Protocol):
    """An `EnginePair` that can decode a click only where its mask can change."""

    def decode_region(
        self,
        state: ImageState,
        prompts: HostPrompts,
        *,
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> Decoded:
        """Like `EnginePair.decode`; logits outside the regions are `decoder.OUTSIDE`.

        boxes: decode these patches of each object instead of those that the engine chooses.
        """
        ...


@runtime_checkable
class CoarseEngines(Protocol):
    """An `EnginePair` that can answer a click coarsely before it decodes it."""

    def coarse(self, state: ImageState, prompts: HostPrompts) -> NDArray[np.float32]:
        """An estimate of the logits, (N, rows, columns) on a grid over the image, > 0 = object.

        A click with the same prompts at the same time or soon after does not repeat this work.
        Raises `InvalidInput` if a prompt array has the wrong shape or type.
        """
        ...


class RegionPair:
    """An encoder and a decoder in three parts. Thread-safe if the graphs are."""

    def __init__(
        self, manifest: Manifest, description: str, encoder: Graph, decoder: RegionDecoder
    ) -> None:
        self.manifest = manifest
        self.description = description
        self._encoder = encoder
        self._decoder = decoder

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        return run_encoder(self._encoder, self.manifest, image, geometry)

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


def open_region_decoder(
    manifest: Manifest, folder: Path, open_graph: Callable[[Path], Graph]
) -> RegionDecoder:
    """Open the three graphs in `folder`. Raises `EngineError` if the manifest has none."""
    parts = manifest.region
    if parts is None:
        raise EngineError(
            f"{manifest.name} was exported without the parts that decode a region; export it again"
        )
    if not any(each.name == "rows8_from" for each in parts.crop.inputs):
        raise EngineError(
            f"{manifest.name} was exported by an earlier version, whose {parts.crop.file} takes "
            "other inputs; export it again"
        )
    trunk, tail, crop = (open_graph(folder / engine.file) for engine in parts.files)
    trunk = few_slots(trunk, parts.trunk)
    return RegionDecoder(region_form(manifest, parts), trunk, tail, crop)


def region_form(manifest: Manifest, parts: RegionParts) -> RegionForm:
    tail = TailForm(manifest.patch, parts.stride, parts.aligned, parts.detail)
    return RegionForm(
        tail=tail,
        cell=manifest.patch // manifest.coverage_scale,
        keep_clicks=parts.keep_clicks,
        threshold=parts.threshold,
    )
