"""Clicks on photographs and scenes, as a robot user makes them, for the fit and the gate.

A scene has exact masks. A photograph has none here, so the network itself names an object: the mask
of one click at a random place. The robot then clicks towards that mask from the beginning. No label
is needed, so any checkpoint can be rehearsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.geometry import Geometry
from ois_export.parity.cases import LANDSCAPE, PANORAMA, PORTRAIT, SQUARE, Sample
from ois_network.training.clicks.robot import next_robot_click
from ois_network.training.scenes.scene import render
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.pixels import postprocess

#: Scenes that no network is trained or evaluated on.
_SEED = 1_000_099
_PHOTOGRAPHS: tuple[Sample, ...] = (LANDSCAPE, SQUARE, PORTRAIT, PANORAMA)
#: Of an image; a larger or smaller mask of one click is not taken for an object.
_OBJECT_SHARES = (0.003, 0.7)

Mask = NDArray[np.bool_]
#: Prompts of one object -> its logits (h, w) and coverage, of the whole image.
Decode = Callable[[HostPrompts], tuple[NDArray[np.float32], NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """One image. targets: masks of its objects (H, W); none where the network has to name them."""

    name: str
    pixels: NDArray[np.uint8]
    targets: tuple[Mask, ...] = ()


def rehearsals(first: int, scenes: int, *, photographs: bool = True) -> Iterator[Rehearsal]:
    """Scenes `first`, `first` + 1, ..., and the sample photographs."""
    for index in range(first, first + scenes):
        scene = render(_SEED, index)
        masks = [scene.instances == number for number in scene.targets()]
        yield Rehearsal(f"scene {index}", scene.image, tuple(masks))
    for sample in _PHOTOGRAPHS if photographs else ():
        yield Rehearsal(sample.name, sample.pixels())


def targets_of(
    image: Rehearsal, geometry: Geometry, decode: Decode, *, most: int, seed: int
) -> Sequence[Mask]:
    """At most `most` objects of an image, drawn at random."""
    generator = np.random.default_rng([_SEED, seed])
    if image.targets:
        order = generator.permutation(len(image.targets))
        return [image.targets[number] for number in order[:most]]
    found: list[Mask] = []
    for _ in range(2 * most):
        x, y = generator.random(2) * (geometry.width - 1, geometry.height - 1)
        logits, _ = decode(prompts_of([Click(float(x), float(y))], None, geometry))
        mask = postprocess(logits[None], geometry)[0].astype(bool)
        if _OBJECT_SHARES[0] <= mask.mean() <= _OBJECT_SHARES[1] and len(found) < most:
            found.append(mask)
    return found


def robot_clicks(
    target: Mask, geometry: Geometry, decode: Decode, clicks: int
) -> Iterator[tuple[HostPrompts, Mask]]:
    """1 to `clicks` clicks of the robot on an object: the prompts, and the mask that they gave."""
    made: list[Click] = []
    mask = np.zeros(target.shape, dtype=bool)
    coverage = None
    for _ in range(clicks):
        made.append(next_robot_click(target.astype(np.int8), mask, made))
        prompts = prompts_of(made, coverage, geometry)
        logits, coverage = decode(prompts)
        mask = postprocess(logits[None], geometry)[0].astype(bool)
        yield prompts, mask
        if (mask == target).all():
            return


def prompts_of(
    clicks: Sequence[Click], coverage: NDArray[np.uint8] | None, geometry: Geometry
) -> HostPrompts:
    """The prompts of one object. coverage: of its previous mask, if there is one."""
    points, labels = fill_slots([list(clicks)], geometry)
    empty = np.zeros(geometry.coverage_shape, dtype=np.uint8)
    before: NDArray[Any] = empty if coverage is None else coverage
    return Prompts(points, labels, before[None], np.array([coverage is not None]))
