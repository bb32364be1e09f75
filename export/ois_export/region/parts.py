"""The steps of `ois export` that concern regions: fit, description, gate.

The robot user needs SciPy, and the gate ONNX Runtime, so both are imported only if regions are
exported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ois_export.parity.comparison import Progress
from ois_network.checkpoints.checkpoint import Checkpoint
from ois_network.config import NetworkConfig
from ois_network.region import CoarseHead
from ois_network.split import detail_name
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.manifest import EngineFile, Manifest, RegionParts
from ois_runtime.engines.region.pair import RegionPair, open_region_decoder

# The fit and the gate see different scenes. Few images are enough: each has thousands of cells.
_FIT_SCENES, _GATE_SCENES = 6, 6
_CLICKS = 3


def fitted_coarse(checkpoint: Checkpoint, progress: Progress) -> tuple[CoarseHead, float]:
    """The coarse map of a network, and its threshold."""
    from ois_export.region.fit import fit_coarse
    from ois_export.region.rehearsal import rehearsals

    images = list(rehearsals(0, _FIT_SCENES))
    return fit_coarse(checkpoint.network, images, clicks=_CLICKS, progress=progress)


def region_parts(
    config: NetworkConfig, engines: Mapping[str, EngineFile], head: CoarseHead, threshold: float
) -> RegionParts:
    """The manifest's record, before the gate."""
    bias = head.conv.bias
    weights = [*head.conv.weight.flatten().tolist(), 0.0 if bias is None else float(bias.detach())]
    return RegionParts(
        trunk=engines["trunk"],
        tail=engines["tail"],
        crop=engines["crop"],
        stride=config.output_stride,
        aligned=config.aligned_corners,
        detail=detail_name(config) if config.detail_channels else None,
        keep_clicks=config.keep_clicks,
        threshold=threshold,
        coarse=tuple(weights),
        accepted=False,
    )


def gated(manifest: Manifest, folder: Path, progress: Progress) -> Manifest:
    """The manifest with what the gate measured on the graphs in `folder`, in ONNX Runtime."""
    from ois_export.region.gate import run_region_gate
    from ois_export.region.rehearsal import rehearsals
    from ois_runtime.engines.onnx_runtime import describe, open_graph

    options = EngineOptions()
    parts = manifest.region
    if parts is None:
        return manifest
    decoder = open_region_decoder(manifest, folder, lambda path: open_graph(path, options))
    encoder = open_graph(folder / manifest.encoder.file, options)
    engines = RegionPair(manifest, describe(options), encoder, decoder)
    images = rehearsals(_FIT_SCENES, _GATE_SCENES)
    accepted, gate = run_region_gate(engines, images, clicks=_CLICKS, progress=progress)
    parts = dataclasses.replace(parts, accepted=accepted, gate=gate)
    manifest = dataclasses.replace(manifest, region=parts)
    progress(summary(manifest))
    return manifest


def summary(manifest: Manifest) -> str:
    """What the gate found, in one sentence; "" if the decoder was exported whole only."""
    parts = manifest.region
    if parts is None:
        return ""
    if parts.accepted:
        return (
            f"clicks decode {parts.gate['share']:.0%} of the image on average; IoU with the whole "
            f"decode {parts.gate['mean_iou']:.5f}, worst {parts.gate['worst_iou']:.5f}"
        )
    return f"clicks decode the whole image: {parts.gate.get('reason', 'the gate was not run')}"
