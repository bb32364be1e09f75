"""Where a mean comes from: mean IoU by the objects' size, and the worst objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from ois_benchmarks.quality.bootstrap import bootstrap_means
from ois_benchmarks.quality.records import Log, Measured

#: Clicks after which means are given.
AFTER = (1, 3, 5, 10)
#: Object sizes by their share of the image's area: name, from, to.
SIZES = (
    ("below 2 %", 0.0, 0.02),
    ("2 to 10 %", 0.02, 0.10),
    ("above 10 %", 0.10, 2.0),
)
_WORST = 10


def share_of(record: Measured) -> float:
    """The object's share of the image's area, from 0 to 1."""
    return record.area / (record.width * record.height)


def by_size(log: Log) -> list[dict[str, Any]]:
    """Per size: the number of objects, and mean IoU after each of `AFTER` clicks, JSON-ready.

    Sizes without objects are left out.
    """
    found = []
    columns = [after for after in AFTER if after <= log.clicks]
    for name, low, high in SIZES:
        chosen = {n: r for n, r in log.measured.items() if low <= share_of(r) < high}
        if not chosen:
            continue
        ious = log.ious(list(chosen))[:, np.array(columns) - 1]
        means = bootstrap_means(ious, [record.image for record in chosen.values()])
        found.append(
            {
                "size": name,
                "objects": len(chosen),
                "miou": {
                    str(after): mean.to_dict() for after, mean in zip(columns, means, strict=True)
                },
            }
        )
    return found


def worst(log: Log) -> list[dict[str, Any]]:
    """The objects with the lowest IoU after 5 clicks, or after the last of fewer, JSON-ready."""
    at = min(5, log.clicks) - 1
    ious = {name: record.held_ious(log.clicks) for name, record in log.measured.items()}
    names = sorted(ious, key=lambda name: ious[name][at])[:_WORST]
    return [
        {
            "name": name,
            "share": round(share_of(log.measured[name]), 5),
            "iou": {str(k): ious[name][k - 1] for k in (1, 5) if k <= log.clicks},
        }
        for name in names
    ]
