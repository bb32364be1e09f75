"""The gate of eight-bit engines: the robot user clicks on objects, with both pairs of engines.

The objects of procedural scenes have exact masks, so IoU and number of clicks are compared. The
sample photographs have no masks. An object there is what the fp32 engines segment after one click,
which they find again more easily than any others; so only the agreement of the masks after the same
clicks is compared. Per object there are up to three sessions: the robot on the fp32 engines, the
robot on the others, and the first robot's clicks repeated on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.sessions.client import Client
from ois_export.int8.options import GateLimits
from ois_export.parity.comparison import Progress, mask_iou
from ois_export.region.rehearsal import rehearsals
from ois_network.training.clicks.robot import (
    clicks_to_reach,
    intersection_over_union,
    next_robot_click,
)
from ois_runtime.engines.local import LocalTransport
from ois_runtime.engines.pair import EnginePair

CLICKS = 5
NOC_IOU = 0.9
#: The gate and the calibration see different scenes.
_FIRST_SCENE = 20
_MOST_OBJECTS = 2
#: Where the photographs are clicked, as shares of width and height.
_PLACES = ((0.5, 0.45), (0.3, 0.6))
#: An object that covers less or more than this share of its photograph is not used.
_SHARES = (0.005, 0.8)


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """pixels: (H, W, 3) uint8 RGB. target: (H, W) bool, 1 = object. exact: not of the engines."""

    name: str
    pixels: NDArray[np.uint8]
    target: NDArray[np.bool_]
    exact: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Means. iou, reference_iou: with the exact masks, after 5 clicks. noc: as `GateLimits` says.

    objects: all of them; exact: those with exact masks. worst: the object with the least agreement.
    """

    objects: int
    exact: int
    iou: float
    reference_iou: float
    noc: float
    reference_noc: float
    agreement: float
    worst: dict[str, float] = field(default_factory=dict)

    def broken(self, limits: GateLimits) -> list[str]:
        """What exceeds a limit, in words; empty if the engines pass."""
        found = []
        if not self.reference_iou - self.iou <= limits.iou_drop:  # also true for NaN
            found.append(
                f"IoU after {CLICKS} clicks is {self.iou:.4f}, and {self.reference_iou:.4f} in "
                f"fp32; the limit is {limits.iou_drop:g} less"
            )
        if not self.noc - self.reference_noc <= limits.noc_rise:
            found.append(
                f"NoC is {self.noc:.2f}, and {self.reference_noc:.2f} in fp32; the limit is "
                f"{limits.noc_rise:g} more"
            )
        if not self.agreement >= limits.agreement:
            found.append(
                f"masks after the same clicks have an IoU of {self.agreement:.4f} with those of "
                f"fp32; the limit is {limits.agreement:g}"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class RobotGate:
    """The objects and what the fp32 engines do on them, which is measured once."""

    def __init__(
        self, reference: EnginePair, scenes: int, progress: Progress = lambda _: None
    ) -> None:
        """scenes: the number of procedural scenes, besides the sample photographs."""
        self._reference = reference
        self._scenes = scenes
        self._progress = progress

    @cached_property
    def _played(self) -> list[tuple[Object, _Session]]:
        with Client(LocalTransport(self._reference)) as client:
            found = _objects(client, self._scenes)
            played = []
            for number, each in enumerate(found, 1):
                self._progress(f"robot on fp32, {number}/{len(found)}: {each.name}")
                played.append((each, _play(client, each)))
        return played

    def judge(self, engines: EnginePair) -> Verdict:
        """Play every object on `engines`."""
        rows = []
        agreement = {}
        with Client(LocalTransport(engines)) as client:
            for number, (each, before) in enumerate(self._played, 1):
                self._progress(f"robot on int8, {number}/{len(self._played)}: {each.name}")
                repeated = _repeat(client, each, before.clicks)
                agreement[each.name] = mask_iou(repeated, before.mask)
                if each.exact:
                    now = _play(client, each)
                    rows.append((now.ious[-1], before.ious[-1], now.noc, before.noc))
        iou, reference_iou, noc, reference_noc = (float(v) for v in np.mean(rows, axis=0))
        worst = min(agreement, key=lambda name: agreement[name])
        mean = float(np.mean(list(agreement.values())))
        return Verdict(
            len(agreement),
            len(rows),
            iou,
            reference_iou,
            noc,
            reference_noc,
            mean,
            {worst: agreement[worst]},
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    """One robot session: its clicks, the IoU after each, and the last mask."""

    clicks: list[Click]
    ious: list[float]
    mask: NDArray[np.bool_]

    @property
    def noc(self) -> int:
        return clicks_to_reach(self.ious, NOC_IOU, CLICKS)


def _play(client: Client, each: Object) -> _Session:
    session = client.open(each.pixels)
    clicks: list[Click] = []
    ious = []
    mask = np.zeros(each.target.shape, dtype=bool)
    for _ in range(CLICKS):
        clicks.append(next_robot_click(each.target, mask, clicks))
        mask = _click(session, clicks[-1])
        ious.append(intersection_over_union(each.target, mask))
    return _Session(clicks, ious, mask)


def _repeat(client: Client, each: Object, clicks: Sequence[Click]) -> NDArray[np.bool_]:
    session = client.open(each.pixels)
    return [_click(session, click) for click in clicks][-1]


def _click(session: Any, click: Click) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = session.click(click.x, click.y, positive=click.positive).astype(bool)
    return mask


def _objects(client: Client, scenes: int) -> list[Object]:
    """One or two objects of each picture of the rehearsal."""
    found = []
    for image in rehearsals(_FIRST_SCENE, scenes):
        targets = image.targets or tuple(_named(client, image.pixels))
        found += [
            Object(f"{image.name}, object {number}", image.pixels, target, bool(image.targets))
            for number, target in enumerate(targets[:_MOST_OBJECTS], 1)
        ]
    return found


def _named(client: Client, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.bool_]]:
    for across, down in _PLACES:
        height, width = pixels.shape[:2]
        x, y = across * (width - 1), down * (height - 1)
        mask = client.open(pixels).click(x, y).astype(bool)
        if _SHARES[0] <= mask.mean() <= _SHARES[1]:
            yield mask
