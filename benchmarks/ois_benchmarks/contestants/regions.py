"""Engines that decode a box of a given size, for networks without a gate or with random weights.

A network with random weights finds no object, so its coarse map cannot say where to decode. For
timing it is enough to decode as many patches as an object would need.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import POSITIVE
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.backends import EngineBackend, EngineOptions, load_region_engines
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.local import LocalTransport
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import Decoded
from ois_runtime.engines.region.pair import RegionPair

#: Of the picture, the share that stands for an object's box.
SHARE = 0.25


def open_transport(
    folder: Path, backend: str, options: EngineOptions, *, cache_bytes: int, share: float = SHARE
) -> LocalTransport:
    """The engines in `folder`, whose clicks decode a box around the positive clicks."""
    engines = load_region_engines(folder, EngineBackend.parse(backend), options)
    return LocalTransport(BoxEngines(engines, share), cache_bytes=cache_bytes)


class BoxEngines:
    """An `EnginePair` that decodes, of each object, a box of the picture's shape."""

    def __init__(self, engines: RegionPair, share: float) -> None:
        self.manifest = engines.manifest
        self.description = engines.description
        self._engines = engines
        self._share = share

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
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
        if boxes is None:
            grid = state.geometry.grid_height, state.geometry.grid_width
            boxes = [
                [box_around(points[labels == POSITIVE] / state.geometry.patch, grid, self._share)]
                for points, labels in zip(prompts.points, prompts.labels, strict=True)
            ]
        return self._engines.decode_region(state, prompts, boxes=boxes)


def box_around(places: NDArray[np.floating], grid: tuple[int, int], share: float) -> Box:
    """A box of patches with this share of the grid (rows, columns), of the grid's shape.

    places: (P, 2), (x, y) in patches; their mean is the box's middle, as far as the grid allows.
    Without a place, the grid's middle is.
    """
    sides = [max(1, min(total, round(total * share**0.5))) for total in grid]
    middle = places.mean(axis=0)[::-1] if len(places) else np.array(grid) / 2
    top, left = (
        int(np.clip(round(float(centre - side / 2)), 0, total - side))
        for centre, side, total in zip(middle, sides, grid, strict=True)
    )
    return Box(top, left, top + sides[0], left + sides[1])
