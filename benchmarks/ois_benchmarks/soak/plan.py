"""The plan of a soak run: who visits which image when, and for how many clicks.

A visit is a session: open an image, click on it, leave. Visits arrive at Poisson times. Each image
is visited for the first time somewhere in the run; every other visit returns to an image that was
new not long ago, so that the store of features hits, misses and evicts. Everything follows from the
plan's seed, so an interrupted run can go on where it was.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ois_benchmarks.chaos.faults import Fault
from ois_benchmarks.load.pacing import ThinkTime
from ois_client.contract.errors import InvalidInput
from ois_client.transports.settings import Timeouts

#: How the server is restarted. Orderly: stopped, then started again at once.
ORDERLY = "orderly"
FAULTS = {str(fault): fault for fault in (Fault.KILL_SERVER, Fault.KILL_SEGMENT)}
#: Clicks of the longest visit. Visits are shorter: their lengths are geometric.
LONGEST_VISIT = 8
_LEAVE = 0.25  # the chance to leave after a click
#: A visit that returns goes, on average, so many images back.
_RETURN = 60
#: Clicks per visit, on average.
MEAN_CLICKS = (1 - (1 - _LEAVE) ** LONGEST_VISIT) / _LEAVE


@dataclass(frozen=True, slots=True)
class Visit:
    """at_s: since the start of the run. image: its number."""

    at_s: float
    image: int
    clicks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakPlan:
    """What to run. Raises `InvalidInput` for values out of range.

    hours: in which the visits arrive; those that could not begin in this time are left out.
    clicks, images: of all visits together. sessions: at once, at most; further visits wait, so
    that a machine that is too slow makes fewer clicks, and no queue that grows. restarts: of the
    server, evenly over the run. kinds: of restarts, in turns. every_s: between two measurements.
    longest: longest side of the network's images; None as exported. cache_bytes: of the server's
    store of features. seed: of visits, images, click positions and pauses.
    """

    hours: float = 2.0
    clicks: int = 100_000
    images: int = 5_000
    sessions: int = 100
    restarts: int = 5
    kinds: tuple[str, ...] = (ORDERLY, *FAULTS)
    every_s: float = 30.0
    think: ThinkTime = field(default_factory=ThinkTime)
    longest: int | None = None
    cache_bytes: int = 64 * 2**20
    timeouts: Timeouts = field(
        default_factory=lambda: Timeouts(connect_s=60, click_s=10, encode_s=20)
    )
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("hours", self.hours, 1e-3, 1000),
            ("clicks", self.clicks, 1, 10**8),
            ("images", self.images, 1, 10**7),
            ("sessions at once", self.sessions, 1, 2000),
            ("restarts", self.restarts, 0, 1000),
            ("the seconds between two measurements", self.every_s, 0.5, 3600),
            ("the bytes of the store", self.cache_bytes, 2**16, 2**50),
        ):
            if not low <= value <= high:
                raise InvalidInput(f"got {value:g} for {name}; expected {low:g} to {high:g}")
        if not self.kinds or set(self.kinds) - {ORDERLY, *FAULTS}:
            raise InvalidInput(
                f"got the restarts {', '.join(self.kinds) or 'none'}; expected some of {ORDERLY}, "
                f"{', '.join(FAULTS)}"
            )
        most = self.clicks // LONGEST_VISIT or 1
        if self.images > most:
            raise InvalidInput(
                f"got {self.images} images for {self.clicks} clicks; expected at most {most}, "
                f"because a visit may have {LONGEST_VISIT} clicks"
            )

    @property
    def seconds(self) -> float:
        return 3600 * self.hours

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kinds": list(self.kinds)}

    def restart_times(self) -> list[float]:
        """Seconds since the start of the run."""
        between = self.seconds / (self.restarts + 1)
        return [between * (number + 1) for number in range(self.restarts)]

    def visits(self) -> list[Visit]:
        """All visits, in order of time. Their clicks add up to `clicks` exactly."""
        generator = np.random.default_rng([self.seed, 1])
        lengths: list[int] = []
        left = self.clicks
        while left:
            lengths.append(min(int(generator.geometric(_LEAVE)), LONGEST_VISIT, left))
            left -= lengths[-1]
        count = len(lengths)
        # Given their number, the times of a Poisson process are uniform.
        times = np.sort(generator.uniform(0, self.seconds, count))
        new = np.zeros(count, bool)
        new[0] = True
        new[1 + generator.choice(count - 1, self.images - 1, replace=False)] = True
        newest = np.cumsum(new) - 1
        back = generator.geometric(1 / _RETURN, count) - 1
        images = np.where(new, newest, np.maximum(newest - back, 0))
        return [Visit(*one) for one in zip(times.tolist(), images.tolist(), lengths, strict=True)]
