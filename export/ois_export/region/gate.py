"""The gate of regions: their masks against those of the whole decode, click by click.

Both decode the same prompts, and the robot continues on the mask of the whole decode. Regions are
accepted if the masks agree; otherwise the engines decode everything, and the manifest says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_export.parity.comparison import mask_iou
from ois_export.region.rehearsal import Rehearsal, robot_clicks, targets_of
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.pixels import postprocess, preprocess
from ois_runtime.engines.region.pair import RegionPair

#: The smallest IoU of a region's mask with that of the whole decode: mean, and any mask.
MEAN_IOU, WORST_IOU = 0.999, 0.99
_MOST_TARGETS = 2


def run_region_gate(
    engines: RegionPair,
    images: Iterable[Rehearsal],
    *,
    clicks: int,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[bool, dict[str, Any]]:
    """Whether regions are accepted, and the manifest's record: what was measured.

    share: of the patches that were decoded, over all clicks; 1 where everything was.
    """
    ious: list[float] = []
    shares: list[float] = []
    worst = ""
    for number, image in enumerate(images, start=1):
        progress(f"regions against the whole: {image.name}")
        for what, iou, share in _measure(engines, image, clicks, number):
            if not ious or iou < min(ious):
                worst = what
            ious.append(iou)
            shares.append(share)
    if not ious:
        return False, {"masks": 0, "reason": "no click gave a mask to compare"}
    mean, lowest = float(np.mean(ious)), min(ious)
    accepted = mean >= MEAN_IOU and lowest >= WORST_IOU
    record: dict[str, Any] = {
        "engines": engines.description,
        "masks": len(ious),
        "mean_iou": mean,
        "worst_iou": lowest,
        "worst_case": worst,
        "share": float(np.mean(shares)),
        "limits": {"mean_iou": MEAN_IOU, "worst_iou": WORST_IOU},
    }
    if not accepted:
        record["reason"] = (
            f"masks of regions have an IoU of {mean:.5f} with those of the whole decode, "
            f"{lowest:.5f} at worst ({worst}); expected {MEAN_IOU} and {WORST_IOU}"
        )
    return accepted, record


def _measure(
    engines: RegionPair, image: Rehearsal, clicks: int, seed: int
) -> Iterator[tuple[str, float, float]]:
    """(what, IoU, share of the patches that were decoded) of every click."""
    pixels, geometry = preprocess(image.pixels, engines.manifest.fit)
    state = engines.encode(pixels, geometry)

    def decode(prompts: HostPrompts) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        logits, coverage = engines.decode(state, prompts)
        return logits[0], coverage[0]

    patches = geometry.grid_width * geometry.grid_height
    targets = targets_of(image, geometry, decode, most=_MOST_TARGETS, seed=seed)
    for number, target in enumerate(targets, start=1):
        rounds = robot_clicks(target, geometry, decode, clicks)
        for count, (prompts, whole) in enumerate(rounds, start=1):
            decoded = engines.decode_region(state, prompts)
            mask = postprocess(decoded.logits, geometry)[0].astype(bool)
            boxes = decoded.boxes[0]
            share = 1.0
            if boxes is not None:
                share = sum(box.rows * box.columns for box in boxes) / patches
            what = f"{image.name}, object {number}, click {count}"
            yield what, mask_iou(mask, whole), share
