"""Exports a click decoder as three graphs: the trunk, the tail, and the tail on a crop.

trunk.onnx   image state, prompts -> path, coarse
tail.onnx    path (and the map of details) -> logits of the whole image
crop.onnx    crops of both, and the matrices of their upsamplings -> logits of the crop
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from ois_client.contract.clicks import PROMPT_NAMES
from ois_export.graphs.onnx_file import free_axes, write_onnx
from ois_network.region import TRUNK_OUTPUTS, CoarseHead, RegionTail, Tail, Trunk, crop_names
from ois_network.split import ClickDecoder, detail_name
from ois_runtime.engines.region.windows import CELLS

#: Roles of the three graphs; each is written to `<role>.onnx`.
ROLES = ("trunk", "tail", "crop")
# Sides of the traced crop; no two of them equal, and none a simple multiple of another.
_ROWS, _COLUMNS = 34, 47
# Tiles per axis of the traced crop, with samples and cells of each.
_TRACE_TILES = {"8": ((13, 17), 7, 5), "_out": ((15, 19), 11, 6)}


def export_region_graphs(
    decoder: ClickDecoder,
    coarse: CoarseHead,
    state: dict[str, Tensor],
    prompts: tuple[Tensor, ...],
    prompt_axes: tuple[dict[int, Any], ...],
    folder: Path,
    opset: int,
) -> dict[str, Path]:
    """Write the three graphs, fp32, to `folder` and return their paths by role.

    state, prompts: examples; prompt_axes: the free axes of each. Raises as `export_graphs`.
    """
    paths = {role: folder / f"{role}.onnx" for role in ROLES}
    network, config = decoder.network, decoder.network.config
    detail = detail_name(config)
    shown = {name: tensor for name, tensor in state.items() if name != detail}
    auto = Dim.AUTO
    write_onnx(
        Trunk(decoder, coarse),
        (shown, *prompts),
        ({name: free_axes(name) for name in shown}, *prompt_axes),
        paths["trunk"],
        [*shown, *PROMPT_NAMES],
        list(TRUNK_OUTPUTS),
        opset,
    )
    rows, columns = (CELLS * cells // config.coverage_scale for cells in prompts[2].shape[1:])
    maps = {"path": torch.zeros(2, config.head_features, rows, columns)}
    shapes: dict[str, dict[int, Any]] = {"path": {0: auto, 2: auto, 3: auto}}
    if config.detail_channels:
        maps[detail], shapes[detail] = state[detail], free_axes(detail)
    write_onnx(Tail(decoder), (maps,), (shapes,), paths["tail"], [*maps], ["logits"], opset)
    crop = _crop_inputs(decoder)
    free: dict[str, dict[int, Any]] = {
        name: dict.fromkeys(range(tensor.dim()), auto) for name, tensor in crop.items()
    }
    free["path"] = shapes["path"]
    if config.detail_channels:
        free[detail] = free_axes(detail)
    tail = RegionTail(network)
    write_onnx(tail, (crop,), (free,), paths["crop"], [*crop], ["logits"], opset)
    return paths


def _crop_inputs(decoder: ClickDecoder) -> dict[str, Tensor]:
    """Inputs of `RegionTail` with sides that are all different."""
    config = decoder.network.config
    before = (_ROWS, _COLUMNS)
    given: dict[str, Tensor] = {"path": torch.zeros(2, config.head_features, *before)}
    names = crop_names(config)
    for suffix, (counts, samples, cells) in _TRACE_TILES.items():
        if f"rows{suffix}" not in names:
            continue
        for axis, count in zip(("rows", "columns"), counts, strict=True):
            given[f"{axis}{suffix}"] = torch.zeros(count, samples, cells)
            given[f"{axis}{suffix}_from"] = torch.zeros(count, cells, dtype=torch.int64)
        before = (counts[0] * samples, counts[1] * samples)
    for axis, side, more in zip(("rows", "columns"), before, (58, 64), strict=True):
        given[f"{axis}_full"] = torch.zeros(side + more, side)
    if config.detail_channels:
        given[detail_name(config)] = torch.zeros(1, config.detail_channels, *before)
    return {name: given[name] for name in names}
