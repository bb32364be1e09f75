"""Quantises the parts of a decoder that decode a region, as the whole decoder was quantised."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.images import Picture
from ois_export.int8.calibration import requests
from ois_export.int8.quantise import Quantiser
from ois_runtime.engines.backends import EngineOptions, GraphBackend
from ois_runtime.engines.manifest import EngineFile, Manifest, RegionParts
from ois_runtime.engines.pair import Arrays, Graph
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.pair import RegionPair, open_region_decoder

#: The inputs of the parts are whole maps, so few pictures have to do.
_PICTURES = 6


class _Recorded:
    """A graph that keeps what it was given."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.given: list[Arrays] = []

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        self.given.append(dict(feeds))
        return self._graph.run(feeds)


def quantise_parts(
    folder: Path,
    manifest: Manifest,
    encoder: Path,
    layers: Collection[str],
    library: GraphBackend,
    given: Sequence[Picture],
) -> RegionParts | None:
    """Quantise these layers in the parts in `folder`; return their record, without a gate's.

    encoder: the fp32 encoder. Returns None if the decoder was exported whole only.
    """
    if manifest.region is None:
        return None
    recorded: dict[str, _Recorded] = {}

    def opened(path: Path) -> Graph:
        recorded[path.name] = _Recorded(library.open_graph(path, EngineOptions()))
        return recorded[path.name]

    decoder = open_region_decoder(manifest, folder, opened)
    pair = RegionPair(manifest, "", library.open_graph(encoder, EngineOptions()), decoder)
    for state, prompts in requests(pair, given[:_PICTURES]):  # it decodes the whole image
        grid = state.geometry.grid_height, state.geometry.grid_width
        rows, columns = (max(1, side // 2) for side in grid)
        pair.decode_region(state, prompts, boxes=[[Box(0, 0, rows, columns)]])
    files = {role: getattr(manifest.region, role) for role in ("trunk", "tail", "crop")}
    quantisers = {
        role: Quantiser(folder / file.file, "decoder", recorded[file.file].given)
        for role, file in files.items()
    }
    # A crop has to round as the whole does, or their masks differ.
    quantisers["crop"].share_ranges(quantisers["tail"])
    made: dict[str, Any] = {}
    for role, quantiser in quantisers.items():
        path, before = folder / files[role].file, files[role]
        chosen = [layer for layer in quantiser.layers if layer in layers]
        if chosen:
            quantiser.write(path, chosen)
        made[role] = EngineFile.of(path, before.inputs, before.outputs)
    return dataclasses.replace(manifest.region, accepted=False, gate={}, **made)
