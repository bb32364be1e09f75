"""A contestant with known masks: a disk around each positive click, without the negative ones.

`ois bench spc --contestant support.disk_contestant:open_disk` measures it like a peer.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.contestants.base import Image, NotHere, Place
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError

RADIUS = 20


class Disk:
    """calls: all calls in order: ("image", shape), ("click", number of clicks), and so on."""

    encodes = True
    served = False

    def __init__(self, place: Place) -> None:
        self.calls: list[tuple[str, object]] = []
        self.identity = Identity(
            label="disk",
            family="disk",
            engine=f"numpy, {place.threads} threads",
            precision="fp32",
            source="tests",
            weights=place.weights.name if place.weights else "random",
            sha256="",
            input_size=(0, 0),
            warnings=("a disk is no network",),
        )

    def set_image(self, image: Image) -> None:
        self.calls.append(("image", image.shape))
        self.shape = image.shape[:2]

    def click(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        self.calls.append(("click", len(clicks)))
        return self._mask(clicks)

    def click_each(self, points: Sequence[Click]) -> NDArray[np.bool_]:
        self.calls.append(("batch", len(points)))
        return np.stack([self._mask([point]) for point in points])

    def automatic(self, image: Image, points_per_side: int) -> int:
        self.calls.append(("automatic", points_per_side))
        self.shape = image.shape[:2]
        return points_per_side**2

    def cost(self) -> Cost:
        return Cost(parameters=1, encode_flops=2, encode_bytes=3, click_flops=4, click_bytes=5)

    def close(self) -> None:
        self.calls.append(("close", None))

    def _mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        mask = np.zeros(self.shape, dtype=np.bool_)
        for click in clicks:
            mask[np.hypot(x - click.x, y - click.y) <= RADIUS] = click.positive
        return mask


def open_disk(place: Place) -> Disk:
    return Disk(place)


def open_without_code(_place: Place) -> Disk:
    raise NotHere("its code is not here; clone it")


def open_with_bad_weights(_place: Place) -> Disk:
    raise EngineError("the weights are of another network")


def open_with_a_defect(_place: Place) -> Disk:
    raise ZeroDivisionError("in the peer's code\nsecond line")


class Faulty(Disk):
    """Every third click fails, as a peer's own code might."""

    def click(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        if len(clicks) == 3:
            raise IndexError("click 3 in the peer's code")
        return super().click(clicks)


def open_faulty(place: Place) -> Disk:
    return Faulty(place)


def open_and_wait(place: Place) -> Disk:
    """Wait for a minute, so that a test can kill the benchmark."""
    (place.weights or place.scratch / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return Disk(place)


def open_and_be_killed(_place: Place) -> Disk:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive after SIGKILL")
