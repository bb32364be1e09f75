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
        name: {0: auto, 1: auto} if tensor.dim() == 2 else free_axes(name)
        for name, tensor in crop.items()
    }
    free["path"] = shapes["path"]
    tail = RegionTail(network)
    write_onnx(tail, (crop,), (free,), paths["crop"], [*crop], ["logits"], opset)
    return paths


def _crop_inputs(decoder: ClickDecoder) -> dict[str, Tensor]:
    """Inputs of `RegionTail` with sides that are all different."""
    config = decoder.network.config
    sizes = {"path": (_ROWS, _COLUMNS), "8": (_ROWS + 29, _COLUMNS + 35)}
    sizes["_out"] = (_ROWS + 73, _COLUMNS + 81)
    sizes["_full"] = (_ROWS + 131, _COLUMNS + 145)
    before = sizes["path"]
    given: dict[str, Tensor] = {"path": torch.zeros(2, config.head_features, *before)}
    names = crop_names(config)
    for suffix in ("8", "_out", "_full"):
        if f"rows{suffix}" not in names:
            continue
        for axis, name in enumerate((f"rows{suffix}", f"columns{suffix}")):
            given[name] = torch.zeros(sizes[suffix][axis], before[axis])
        before = sizes[suffix]
        if suffix != "_full":
            output = before
    if config.detail_channels:
        given[detail_name(config)] = torch.zeros(1, config.detail_channels, *output)
    return {name: given[name] for name in names}
