"""Boxes as first prompts: the mask after a box's clicks, beside the mask after the robot's click.

The box is the tight box of the true mask, as an annotator would draw it, and its clicks are those
of `OISPredictor(..., boxes="clicks")`: one request with a positive click on the centre and negative
clicks outside the corners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.quality.bootstrap import bootstrap_means
from ois_benchmarks.quality.datasets import Dataset
from ois_client.contract.clicks import unpack_clicks
from ois_client.sam.boxes import MARGIN, clicks_of_box
from ois_client.sessions.client import Client
from ois_network.training.clicks.robot import next_robot_click


@dataclass(frozen=True, slots=True)
class BoxIoU:
    """IoU of an object's mask after its box and after the robot's first click, and whether the
    box's centre lies on the object."""

    name: str
    picture: str
    box: float
    click: float
    centred: bool


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """(H, W), True = object -> (x1, y1, x2, y2), the outer edges of its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5


def measure(
    client: Client, dataset: Dataset, advance: Callable[[], object] = lambda: None
) -> list[BoxIoU]:
    """Both IoUs of every object. Raises what `Client.segment` raises."""
    found = []
    for item in dataset.items():
        target = item.load()
        height, width = target.mask.shape
        points, labels = clicks_of_box(tight_box(target.mask), width, height)
        (clicks,) = unpack_clicks(points[None], labels[None], width, height)
        robot = next_robot_click(target.mask, np.zeros_like(target.mask))
        masks = client.segment(target.image, [clicks, [robot]]).masks.astype(bool)
        box, click = (_iou(mask, target.mask) for mask in masks)
        centre = target.mask[round(float(points[0, 1])), round(float(points[0, 0]))]
        found.append(BoxIoU(item.name, item.picture or item.name, box, click, bool(centre)))
        advance()
    return found


def document(client: Client, dataset: Dataset, found: list[BoxIoU]) -> dict[str, Any]:
    """The result, JSON-ready: means with intervals over pictures, and all objects."""
    values = np.array([[one.box, one.click] for one in found])
    box, click = bootstrap_means(values, [one.picture for one in found])
    off = [one.box for one in found if not one.centred]
    return {
        "benchmark": "boxes",
        "dataset": dataset.describe(),
        "network": client.info.network,
        "model_sha256": client.info.model_sha256,
        "engine": client.info.engine,
        "margin": MARGIN,
        "mean_iou_box": asdict(box),
        "mean_iou_click": asdict(click),
        "centre_beside_the_object": {
            "objects": len(off),
            "mean_iou_box": float(np.mean(off)) if off else None,
        },
        "objects": [asdict(one) for one in found],
    }


def _iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())
