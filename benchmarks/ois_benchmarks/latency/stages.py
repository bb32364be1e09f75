"""Where the time of a click through a server goes, as far as its replies say.

queue         from the request's arrival to the start of its work
decode        the click network
postprocess   enlarging the mask to the picture's own size, and its coverage
encode_mask   packing the mask for the reply
rest          everything else: the network between client and server, protocol, copies, and
              the client, which unpacks the mask
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from ois_benchmarks.contestants.base import Contestant, StagedContestant
from ois_benchmarks.statistics import stage_medians

T = TypeVar("T")


class StageClock:
    """Notes the stages of every call of a contestant that knows them."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant if isinstance(contestant, StagedContestant) else None
        self._stages_ms: list[Mapping[str, float]] = []
        self._took_ms: list[float] = []

    def watch(self, call: Callable[..., T]) -> Callable[..., T]:
        """`call`, noted. It must make one request."""
        contestant = self._contestant
        if contestant is None:
            return call

        def watched(*given: object) -> T:
            started = time.perf_counter()
            result = call(*given)
            self._took_ms.append((time.perf_counter() - started) * 1e3)
            self._stages_ms.append(contestant.stages_ms)
            return result

        return watched

    def medians_s(self, warmup: int = 0) -> dict[str, float]:
        """Median seconds per call and stage, without the first `warmup` calls.

        Empty if the contestant does not tell.
        """
        medians = stage_medians(self._stages_ms[warmup:], self._took_ms[warmup:])
        return {stage: ms / 1e3 for stage, ms in medians.items()}
