"""Where a click's time goes, from the stages that replies report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: Stages that engines and servers report, in the order in which they happen.
STAGES = ("queue", "decode", "postprocess", "encode_mask")


def stage_medians(
    stages_ms: Sequence[Mapping[str, float]], took_ms: Sequence[float]
) -> dict[str, float]:
    """Medians by stage in ms, and `rest`: protocol, copies and the client, all but those stages.

    stages_ms: of each click's reply; took_ms: each click's whole time in the client.
    """
    if not took_ms:
        return {}
    medians = {
        stage: _median([one[stage] for one in stages_ms if stage in one])
        for stage in STAGES
        if any(stage in one for one in stages_ms)
    }
    rest = [took - _inside(one) for took, one in zip(took_ms, stages_ms, strict=True)]
    return {**medians, "rest": _median(rest)}


def _inside(stages_ms: Mapping[str, float]) -> float:
    """A server's own total leaves out the queue; in process there is no total."""
    if "total" in stages_ms:
        return stages_ms.get("queue", 0.0) + stages_ms["total"]
    return sum(stages_ms.values())


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)
