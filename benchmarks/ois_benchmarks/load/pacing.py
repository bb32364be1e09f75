"""The plan of a load run: paces, think time, and the order of the steps.

    cold       one user opens pictures that are new to the server, and clicks once on each
    warm       the same user and pictures again, with the features in the store
    fast       K users, each clicking as soon as the mask arrives (closed loop)
    human      K users who look at the mask before they click again (closed loop)
    arrivals   clicks that arrive whether or not the server keeps up (open loop, Poisson)

In a closed loop a slow server slows its users down, so it never looks overloaded. The sustained
rate is therefore read from arrivals. There, the time of a click counts from the moment it was due,
so it includes waiting for slower clicks before it. Load generators that wait for answers leave this
out (coordinated omission).

`next_step` depends only on the plan and on the results so far, so an interrupted run can be
resumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from ois_benchmarks.load.result import StepResult
from ois_client.contract.clicks import SLOTS_PER_SIGN
from ois_client.contract.errors import InvalidInput


class Pace(StrEnum):
    """A kind of step. level_unit: what the level of such a step counts."""

    level_unit: str

    COLD = ("cold", "pictures")
    WARM = ("warm", "pictures")
    FAST = ("fast", "users")
    HUMAN = ("human", "users")
    ARRIVALS = ("arrivals", "clicks/s")

    def __new__(cls, value: str, level_unit: str) -> Pace:
        member = str.__new__(cls, value)
        member._value_ = value
        member.level_unit = level_unit
        return member


@dataclass(frozen=True, slots=True)
class ThinkTime:
    """Seconds between seeing a mask and the next click, lognormally distributed.

    The defaults are an assumption about annotators, not a measurement.
    """

    median_s: float = 1.5
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.median_s < math.inf and 0 <= self.sigma < 3):
            raise InvalidInput(
                f"got a think time with the median {self.median_s} s and sigma {self.sigma}; "
                "expected a median above 0 and 0 <= sigma < 3"
            )

    @property
    def mean_s(self) -> float:
        return self.median_s * math.exp(self.sigma**2 / 2)

    def draw(self, generator: np.random.Generator) -> float:
        return float(generator.lognormal(math.log(self.median_s), self.sigma))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What to run. Raises `InvalidInput` for values out of range.

    seconds: of each step except cold and warm. cold_images: pictures of the cold step. fast_users,
    human_users: numbers of users, one step each. rates: clicks per second, one step each; empty for
    a ramp that finds the saturation. limit_ms: the largest acceptable p95. clicks_an_image: clicks
    by each user before the next image. seed: of think times, arrivals and click positions.
    """

    paces: tuple[Pace, ...] = tuple(Pace)
    seconds: float = 10.0
    cold_images: int = 8
    fast_users: tuple[int, ...] = (1, 8, 32)
    human_users: tuple[int, ...] = (8, 32)
    rates: tuple[float, ...] = ()
    limit_ms: float = 500.0
    clicks_an_image: int = 6
    think: ThinkTime = field(default_factory=ThinkTime)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("seconds", self.seconds, 0.1, 3600),
            ("cold images", self.cold_images, 1, 10_000),
            ("the limit in ms", self.limit_ms, 1, 60_000),
            ("clicks per image", self.clicks_an_image, 1, SLOTS_PER_SIGN),
            *(("users", users, 1, 2000) for users in self.fast_users + self.human_users),
            *(("clicks per second", rate, 0.01, 10_000) for rate in self.rates),
        ):
            if not low <= value <= high:
                raise InvalidInput(f"got {value:g} for {name}; expected {low:g} to {high:g}")
        if not self.paces:
            raise InvalidInput(f"got no pace; expected some of {', '.join(Pace)}")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "think": {"distribution": "lognormal", **asdict(self.think)}}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run. level: see `Pace.level_unit`."""

    pace: Pace
    level: float

    @property
    def label(self) -> str:
        plural = "" if self.level == 1 else "s"
        match self.pace:
            case Pace.COLD:
                return f"{self.level:g} new picture{plural}"
            case Pace.WARM:
                return f"{self.level:g} known picture{plural}"
            case Pace.FAST:
                return f"{self.level:g} user{plural}, no pause"
            case Pace.HUMAN:
                return f"{self.level:g} user{plural}, human pace"
            case Pace.ARRIVALS:
                return f"{self.level:.3g} clicks/s arriving"

    def seconds(self, plan: LoadPlan) -> float:
        """The seconds in which clicks fall due; infinite if the number of pictures ends the step.

        A low arrival rate runs longer than the plan says, to have enough clicks.
        """
        if self.pace in (Pace.COLD, Pace.WARM):
            return math.inf
        if self.pace is Pace.ARRIVALS:
            return max(plan.seconds, min(_LEAST_ARRIVALS / self.level, _LONGEST_S))
        return plan.seconds


_LEAST_ARRIVALS, _LONGEST_S = 30, 60.0

#: The ramp starts at this share of the rate of one user without a pause, and grows by this factor.
#: Then the interval between the highest sustained and the lowest unsustained rate is bisected until
#: their ratio is at most the precision.
RAMP_START, RAMP_GROWTH, RAMP_PRECISION = 0.25, 1.5, 1.06
_MOST_RAMP_STEPS, _LOWEST_RATE = 24, 0.05


def next_step(plan: LoadPlan, done: Sequence[StepResult], click_s: float) -> Step | None:
    """The step after `done`; None if the run is complete.

    click_s: the time of one click without load, from which the ramp starts.
    """
    finished = {(result.pace, result.level) for result in done}
    for step in _fixed(plan):
        if (step.pace, step.level) not in finished:
            return step
    if Pace.ARRIVALS not in plan.paces or plan.rates:
        return None
    ramp = [result for result in done if result.pace == Pace.ARRIVALS]
    rate = _next_rate(ramp, plan.limit_ms, RAMP_START / click_s)
    return None if rate is None else Step(Pace.ARRIVALS, rate)


def _fixed(plan: LoadPlan) -> list[Step]:
    levels: dict[Pace, tuple[float, ...]] = {
        Pace.COLD: (plan.cold_images,),
        Pace.WARM: (plan.cold_images,),
        Pace.FAST: plan.fast_users,
        Pace.HUMAN: plan.human_users,
        Pace.ARRIVALS: plan.rates,
    }
    return [Step(pace, level) for pace in Pace if pace in plan.paces for level in levels[pace]]


def _next_rate(ramp: Sequence[StepResult], limit_ms: float, first: float) -> float | None:
    good = [result.level for result in ramp if result.sustained(limit_ms)]
    bad = [result.level for result in ramp if not result.sustained(limit_ms)]
    if not ramp:
        return _rounded(first)
    if len(ramp) >= _MOST_RAMP_STEPS:
        return None
    if not bad:
        return _rounded(max(good) * RAMP_GROWTH)
    # The lowest unsustained rate counts, even if a higher one passed by chance.
    top = min(bad)
    low = max((rate for rate in good if rate < top), default=None)
    if low is None:
        return _rounded(top / 2) if top > _LOWEST_RATE else None
    return _rounded(math.sqrt(low * top)) if top > low * RAMP_PRECISION else None


def _rounded(rate: float) -> float:
    """Rounded to three digits, so that the printed rate is the exact rate."""
    return float(f"{rate:.3g}")
