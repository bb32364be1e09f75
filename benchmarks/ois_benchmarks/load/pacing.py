"""What a load run does: paces, think time, and which step comes after those that are done.

    cold       one user opens pictures that the server has never seen, and clicks once on each
    warm       the same user and pictures again: the features are there
    fast       K users, the next click as soon as the mask is there (closed loop)
    human      K users who look at the mask before they click again (closed loop)
    arrivals   clicks that arrive whether or not the server keeps up (open loop, Poisson)

In a closed loop a slow server slows its users down, so it never looks overloaded; what a
server sustains is read from arrivals. There, a click's time counts from the moment at which it
was due: one that had to wait because earlier ones were slow counts with its wait, which load
generators that wait for answers leave out (coordinated omission).

`next_step` is a function of the plan and of what was measured, and of nothing else, so an
interrupted run goes on where it stopped.
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
    """A kind of step, and what its level counts."""

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
    """Seconds between seeing a mask and the next click: lognormal.

    The defaults are an assumption about people who annotate, not a measurement of them.
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
    """Raises `InvalidInput` for what cannot be run.

    seconds: of each step but cold and warm. fast_users, human_users: how many, a step each.
    rates: clicks per second, a step each; empty for the ramp that finds the saturation.
    limit_ms: the p95 that users still accept. clicks_an_image: by each user, before the next
    image. seed: of think times, arrivals and where the clicks go.
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
            ("clicks an image", self.clicks_an_image, 1, SLOTS_PER_SIGN),
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
    """level: see `Pace.level_unit`."""

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
        """During which clicks fall due; infinite where the pictures end the step.

        Few arrivals say nothing about a rate, so a low one goes on for longer than the plan's.
        """
        if self.pace in (Pace.COLD, Pace.WARM):
            return math.inf
        if self.pace is Pace.ARRIVALS:
            return max(plan.seconds, min(_LEAST_ARRIVALS / self.level, _LONGEST_S))
        return plan.seconds


_LEAST_ARRIVALS, _LONGEST_S = 30, 60.0

#: The ramp: its first rate as a share of what one user without a pause gets, and its growth.
#: Then the gap between the last sustained and the first unsustained rate is halved until they
#: are this close.
RAMP_START, RAMP_GROWTH, RAMP_PRECISION = 0.25, 1.5, 1.06
_MOST_RAMP_STEPS, _LOWEST_RATE = 24, 0.05


def next_step(plan: LoadPlan, done: Sequence[StepResult], click_s: float) -> Step | None:
    """What to do after `done`; None: the run is complete.

    click_s: how long one click takes when nobody else clicks; where the ramp begins.
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
    # The lowest unsustained rate counts, even where chance let a higher one pass.
    top = min(bad)
    low = max((rate for rate in good if rate < top), default=None)
    if low is None:
        return _rounded(top / 2) if top > _LOWEST_RATE else None
    return _rounded(math.sqrt(low * top)) if top > low * RAMP_PRECISION else None


def _rounded(rate: float) -> float:
    """Three digits: what a person reads is what was offered."""
    return float(f"{rate:.3g}")
