"""Where a mean comes from: mean IoU by the objects' size and thinness, and the worst objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ois_benchmarks.quality.bootstrap import bootstrap_means
from ois_benchmarks.quality.order import Order
from ois_benchmarks.quality.records import Log, Measured
from ois_benchmarks.quality.thinness import THINNESSES
from ois_network.training.clicks.robot import clicks_to_reach

#: Clicks after which means are given.
AFTER = (1, 3, 5, 10)
#: Object sizes by their share of the image's area: name, from, to.
SIZES = (
    ("below 2 %", 0.0, 0.02),
    ("2 to 10 %", 0.02, 0.10),
    ("above 10 %", 0.10, 2.0),
)
#: The worst objects: how many, and after how many clicks their IoU is listed. The last one counts.
_WORST = 10
IOU_AFTER = (1, 5)
_REACHED = 0.90


def share_of(record: Measured) -> float:
    """The object's share of the image's area, from 0 to 1."""
    return record.area / (record.width * record.height)


def by_size(log: Log) -> list[dict[str, Any]]:
    """Per size: the number of objects, and mean IoU after each of `AFTER` clicks, JSON-ready.

    Sizes without objects are left out.
    """
    return _grouped(log, "size", SIZES, share_of)


def by_thinness(log: Log) -> list[dict[str, Any]]:
    """The same by `Measured.thinness`. Empty for logs of earlier versions, which do not hold it."""
    if any(record.thinness is None for record in log.measured.values()):
        return []
    return _grouped(log, "thinness", THINNESSES, lambda record: record.thinness or 0.0)


def _grouped(
    log: Log,
    key: str,
    groups: Iterable[tuple[str, float, float]],
    value: Callable[[Measured], float],
) -> list[dict[str, Any]]:
    found = []
    columns = [after for after in AFTER if after <= log.clicks]
    for name, low, high in groups:
        chosen = {n: r for n, r in log.measured.items() if low <= value(r) < high}
        if not chosen:
            continue
        ious = log.ious(list(chosen))[:, np.array(columns) - 1]
        means = bootstrap_means(ious, [record.image for record in chosen.values()])
        found.append(
            {
                key: name,
                "objects": len(chosen),
                "miou": {
                    str(after): mean.to_dict() for after, mean in zip(columns, means, strict=True)
                },
            }
        )
    return found


def worst(log: Log, order: Order = Order.IOU) -> list[dict[str, Any]]:
    """The objects with the lowest IoU after 5 clicks, or after the last of fewer, JSON-ready.

    order: how these are sorted. clicks: to an IoU of 90 %; null if all of them are not enough.
    """
    last = min(IOU_AFTER[-1], log.clicks)
    entries: list[dict[str, Any]] = []
    for name, record in log.measured.items():
        ious = record.held_ious(log.clicks)
        reached = any(iou >= _REACHED for iou in ious)
        entries.append(
            {
                "name": name,
                "share": round(share_of(record), 5),
                "thinness": record.thinness,
                "clicks": clicks_to_reach(ious, _REACHED, log.clicks) if reached else None,
                "iou": {str(k): ious[k - 1] for k in IOU_AFTER if k <= log.clicks},
                "judged": ious[last - 1],
            }
        )
    chosen = sorted(entries, key=lambda one: one["judged"])[:_WORST]
    chosen.sort(key=_KEYS[order])
    return [{k: v for k, v in one.items() if k != "judged"} for one in chosen]


_KEYS: dict[Order, Callable[[dict[str, Any]], float]] = {
    Order.IOU: lambda one: one["judged"],
    Order.AREA: lambda one: one["share"],
    Order.THINNESS: lambda one: -(one["thinness"] or 0.0),
    Order.CLICKS: lambda one: -(one["clicks"] or math.inf),
}
