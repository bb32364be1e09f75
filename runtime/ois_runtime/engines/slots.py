"""Fewer than 48 slots per object, for decoders that accept them (rewrite R7, `ois_network.split`).

Most objects have a few clicks, and the empty slots are all equal: one of them can stand for the
rest. A decoder's cost then depends on how many clicks there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import SLOTS, SLOTS_PER_SIGN
from ois_runtime.engines.manifest import EngineFile

if TYPE_CHECKING:
    from ois_runtime.engines.pair import Arrays, Graph

#: Slots per sign. Few steps, because engines prepare themselves for each new size.
STEPS = (4, 12, SLOTS_PER_SIGN)


def few_slots(graph: Graph, described: EngineFile) -> Graph:
    """The graph, called with the fewest slots if it accepts any even number of them."""
    free = any(
        each.name == "labels" and isinstance(each.shape[1], str) for each in described.inputs
    )
    return FewSlots(graph) if free else graph


class FewSlots:
    """A `Graph` that gets its clicks in the fewest slots. See `few_slots`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        points, labels = fewer_slots(feeds["points"], feeds["labels"])
        return self._graph.run({**feeds, "points": points, "labels": labels})


def fewer_slots(points: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same clicks in the fewest slots, of which every object has an empty one; or in all 48.

    points (N, 48, 2), labels (N, 48) -> (N, S, 2), (N, S), S = 2 s of one s in `STEPS`.
    """
    filled = (labels >= 0).reshape(-1, 2, SLOTS_PER_SIGN)
    used = int(np.flatnonzero(filled.any(axis=(0, 1))).max(initial=-1)) + 1
    most = int(filled.sum(axis=(1, 2)).max(initial=0))
    half = next(step for step in STEPS if used <= step and (most < 2 * step or 2 * step == SLOTS))
    if 2 * half == SLOTS:
        return points, labels
    kept = np.r_[:half, SLOTS_PER_SIGN : SLOTS_PER_SIGN + half]
    return np.ascontiguousarray(points[:, kept]), np.ascontiguousarray(labels[:, kept])
