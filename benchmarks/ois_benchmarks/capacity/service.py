"""Service times of a server, as measured: how long its device works for each kind of request.

They come from a result of `ois bench load`, so the server may be any: its one user without pauses
gives the times of clicks, its cold and warm steps those of images, and its many users how many
clicks it works on at full speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ois_client.contract.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTimes:
    """Samples in seconds, drawn at random. Raises `InvalidInput` if one is missing or negative.

    click_s, encode_s: of a server that has nothing else to do. light_s: of a request that needs
    neither (the image's features are there already, or are missing). other_s: what a request takes
    besides, in network, protocol and client, where it occupies no worker. image_bytes: of the
    features of an image.
    """

    click_s: Sequence[float]
    encode_s: Sequence[float]
    light_s: Sequence[float] = (0.0,)
    other_s: Sequence[float] = (0.0,)
    image_bytes: int = 2_600_000

    def __post_init__(self) -> None:
        for name in ("click_s", "encode_s", "light_s", "other_s"):
            values = getattr(self, name)
            if not len(values) or not min(values) >= 0:
                raise InvalidInput(f"got {name} = {values!r}; expected one or more times from 0 s")
        if self.image_bytes < 1:
            raise InvalidInput(f"got {self.image_bytes} bytes per image; expected 1 or more")

    def scaled(
        self, *, click_s: float | None = None, encode_s: float | None = None
    ) -> ServiceTimes:
        """The same shapes with these medians, for a device of another speed."""

        def times(values: Sequence[float], median: float | None) -> tuple[float, ...]:
            factor = 1.0 if median is None else median / float(np.median(values))
            return tuple(one * factor for one in values)

        return replace(
            self, click_s=times(self.click_s, click_s), encode_s=times(self.encode_s, encode_s)
        )

    def summary(self) -> dict[str, Any]:
        """Medians and means in ms, JSON-ready."""
        named = {
            "click": self.click_s,
            "encode": self.encode_s,
            "light": self.light_s,
            "other": self.other_s,
        }
        return {
            **{
                f"{name}_ms": {
                    "median": round(1e3 * float(np.median(values)), 3),
                    "mean": round(1e3 * float(np.mean(values)), 3),
                }
                for name, values in named.items()
            },
            "image_bytes": self.image_bytes,
        }

    def busy_s(self, clicks: float) -> float:
        """Seconds of work for a session of `clicks` whose features are not lost."""
        return float(np.mean(self.encode_s) + clicks * np.mean(self.click_s))


def times_of_load(document: Mapping[str, Any], image_bytes: int) -> tuple[ServiceTimes, float]:
    """Service times from a result of `ois bench load`, and how many clicks at once the server
    works on at full speed.

    Raises `InvalidInput` if the result lacks the steps cold, warm or fast with one user.
    """
    try:
        steps = document["steps"]
        alone = next(one for one in steps if one["pace"] == "fast" and one["level"] == 1)
        cold, warm = (
            next(one for one in steps if one["pace"] == pace) for pace in ("cold", "warm")
        )
        other_ms = float(alone["stages_ms"]["rest"])
        times = ServiceTimes(
            click_s=_samples(alone["latency_ms"], other_ms),
            encode_s=_samples(cold["open_ms"], other_ms),
            light_s=_samples(warm["open_ms"], other_ms),
            other_s=(other_ms / 1e3,),
            image_bytes=image_bytes,
        )
        throughput = max(one["throughput"] for one in steps)
    except (StopIteration, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            "got a result without the steps cold, warm and fast with one user "
            f"({type(error).__name__}: {error}); expected one of `ois bench load`"
        ) from error
    return times, float(throughput * np.mean(times.click_s))


def _samples(latency: Mapping[str, Any], other_ms: float) -> tuple[float, ...]:
    """Times in seconds with the quantiles of a load result, linear between them.

    Nothing is known below the median, so the lower half has the median.
    """
    known = [(0.5, latency["p50"]["value"])]
    known += [
        (share, latency[name]["value"])
        for name, share in (("p95", 0.95), ("p99", 0.99))
        if latency[name]
    ]
    known.append((1.0, latency["max"]))
    shares, values = zip(*known, strict=True)
    count = min(1000, max(1, int(latency["count"])))
    places = (np.arange(count) + 0.5) / count
    found = np.interp(places, shares, values) - other_ms
    return tuple((np.maximum(found, 0.0) / 1e3).tolist())
