"""Who clicks when: sessions that arrive at random, open an image and click on its objects.

arrivals            Poisson
objects per image   geometric. An assumption; annotating everything in an image means dozens
clicks per object   as our own robot user needed on photographs to reach an IoU of 0.85
                    (benchmarks/results/quality-photos-ois-photo-cpu.jsonl, 69 objects); it gives
                    up after 10
pauses              lognormal, median 1.5 s, sigma 0.5: an assumption about a fast person, as in
                    `ois bench load`. For SAM's data, a mask took people 34 s in the beginning and
                    14 s later (Segment Anything, section 4); here it is 5 s. Slower people make
                    fewer clicks per second, and need an image's features for longer
images              each session has a new one, or one of a catalogue with Zipf's distribution
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ois_benchmarks.load.pacing import ThinkTime
from ois_client.contract.errors import InvalidInput

#: Clicks -> objects that needed so many.
ROBOT_CLICKS = {1: 21, 2: 24, 3: 13, 4: 1, 5: 1, 6: 1, 9: 3, 10: 5}


@dataclass(frozen=True, slots=True)
class Session:
    """at_s: when the image is opened. image: its number, which stands for its digest.

    pauses_s: one before each click, from the mask before it (from the answer to opening).
    """

    at_s: float
    image: int
    pauses_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How people use the service. Raises `InvalidInput` for values out of range.

    objects: per image, on average. clicks: per object -> weight. catalogue: number of different
    images; 0 gives each session a new one. zipf: exponent of their popularity; 0: all alike.
    """

    objects: float = 3.0
    clicks: Mapping[int, float] = field(default_factory=lambda: dict(ROBOT_CLICKS))
    think: ThinkTime = field(default_factory=ThinkTime)
    catalogue: int = 0
    zipf: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.objects <= 1000:
            raise InvalidInput(f"got {self.objects:g} objects per image; expected 1 to 1000")
        if not self.clicks or min(self.clicks) < 1 or not min(self.clicks.values()) > 0:
            raise InvalidInput(
                f"got the clicks per object {dict(self.clicks)}; expected numbers of clicks from 1 "
                "with weights above 0"
            )
        if self.catalogue < 0 or not 0 <= self.zipf < 5:
            raise InvalidInput(
                f"got a catalogue of {self.catalogue} images with the exponent {self.zipf:g}; "
                "expected 0 or more images and an exponent from 0 to 5"
            )

    @property
    def clicks_per_object(self) -> float:
        return sum(n * weight for n, weight in self.clicks.items()) / sum(self.clicks.values())

    @property
    def clicks_per_session(self) -> float:
        return self.objects * self.clicks_per_object

    @property
    def session_s(self) -> float:
        """Seconds that a person spends on an image, without waiting for the service."""
        return self.clicks_per_session * self.think.mean_s

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "clicks": {str(n): weight for n, weight in self.clicks.items()}}

    def sessions(self, per_second: float, seconds: float, seed: int) -> list[Session]:
        """All sessions that begin within `seconds`, in order of time."""
        generator = np.random.default_rng([seed, 0])
        count = int(generator.poisson(per_second * seconds))
        times = np.sort(generator.uniform(0, seconds, count))
        objects = generator.geometric(1 / self.objects, count)
        needed = generator.choice(
            np.array(list(self.clicks)),
            int(objects.sum()),
            p=np.array(list(self.clicks.values()), float) / sum(self.clicks.values()),
        )
        ends = np.cumsum(objects)
        totals = np.diff(np.concatenate(([0], np.cumsum(needed)[ends - 1])))
        pauses = generator.lognormal(math.log(self.think.median_s), self.think.sigma, totals.sum())
        parts = np.split(pauses, np.cumsum(totals)[:-1])
        return [
            Session(at_s, image, tuple(part.tolist()))
            for at_s, image, part in zip(
                times.tolist(), self._images(count, generator).tolist(), parts, strict=True
            )
        ]

    def _images(self, count: int, generator: np.random.Generator) -> np.ndarray:
        if not self.catalogue:
            return np.arange(count)
        weights = np.arange(1, self.catalogue + 1, dtype=float) ** -self.zipf
        return generator.choice(self.catalogue, count, p=weights / weights.sum())
