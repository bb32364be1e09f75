"""Fewer than 48 slots per object, for decoders that accept them (rewrite R7, `ois_network.split`).

Most objects have a few clicks, and the empty slots are all equal: one of them can stand for the
rest. A decoder's cost then depends on how many clicks there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import SLOTS, SLOTS_PER_SIGN
from ois_runtime.engines.manifest import EngineFile

Arrays = Mapping[str, NDArray[np.generic]]

#: Slots per sign. Few steps, because engines prepare themselves for each new size.
STEPS = (4, 12, SLOTS_PER_SIGN)


class Runs(Protocol):
    """A loaded graph (`ois_runtime.engines.pair.Graph`)."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]: ...


def takes_few_slots(decoder: EngineFile) -> bool:
    """Whether the graph accepts prompts with any even number of slots."""
    return any(each.name == "labels" and isinstance(each.shape[1], str) for each in decoder.inputs)


class FewSlots:
    """A `Graph` that gets its clicks in the fewest slots. For graphs that `takes_few_slots`."""

    def __init__(self, graph: Runs) -> None:
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
