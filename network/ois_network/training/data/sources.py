"""Where training samples come from: procedural scenes, or image and mask pairs on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry
from ois_network.config import NetworkConfig
from ois_network.training.config import Stage, TrainConfig
from ois_network.training.data.augment import augment, fit_to, squash_to
from ois_network.training.data.collections import Collection, SkippedPair, read_pair
from ois_network.training.scenes.scene import (
    SMALLEST_TARGET,
    TRAIN_SEED,
    Scene,
    SceneKind,
    render,
    scene_size,
)

_MOST_SKIPS = 50  # more unusable pairs in a row mean that the data set is wrong


@dataclass(frozen=True, slots=True)
class Sample:
    """One image at network size with at least one object.

    image: (h, w, 3) uint8 RGB. depth: (h, w) float32 inverse depth, or None. masks: one (h, w)
    bool per object. others: for each mask, the pixels of the other objects. skipped: "reason:
    name" of what this sample replaces because it could not be used. instances: (h, w) uint8,
    0 = background, if all objects of the image are known.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32] | None
    masks: list[NDArray[np.bool_]]
    others: list[NDArray[np.bool_]]
    name: str = ""
    skipped: tuple[str, ...] = ()
    instances: NDArray[np.uint8] | None = None


class Source(Protocol):
    """A collection of samples."""

    def __len__(self) -> int:
        """Images per epoch; 0 if the source is endless."""
        ...

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        """Image `index`, with `stage.objects` objects that `rng` chooses.

        shape: (width, height) at network size; None: the image keeps its aspect ratio.
        """
        ...


def network_size(width: int, height: int, longest: int, patch: int) -> tuple[int, int]:
    """(width, height) at network size of a picture that keeps its aspect ratio."""
    geometry = Geometry.fit(width, height, longest=longest, patch=patch)
    return geometry.network_width, geometry.network_height


def sample_of_scene(
    scene: Scene, targets: list[int], count: int, rng: np.random.Generator, name: str
) -> Sample:
    """A sample with `count` objects of `targets`; some come twice if there are too few."""
    chosen = [targets[k] for k in rng.permutation(len(targets))[:count]]
    while len(chosen) < count:
        chosen.append(targets[int(rng.integers(len(targets)))])
    masks = [scene.instances == k for k in chosen]
    others = [(scene.instances > 0) & ~mask for mask in masks]
    return Sample(scene.image, scene.depth, masks, others, name, instances=scene.instances)


class SceneSource:
    """Procedural scenes; endless."""

    def __init__(
        self, network: NetworkConfig, config: TrainConfig, kind: SceneKind = SceneKind.MIXED
    ) -> None:
        self.patch, self.kind = network.patch, kind
        self.smallest = config.smallest_target or SMALLEST_TARGET
        self.first = config.seed * 100_000_000  # every seed has scenes of its own

    def __len__(self) -> int:
        return 0

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        if shape is None:
            width, height = scene_size(TRAIN_SEED, index)
            shape = network_size(width, height, stage.longest, self.patch)
        attempt = 0
        while True:  # a scene without a large enough object is replaced by another
            number = self.first + index + attempt * 50_000_000
            scene = render(TRAIN_SEED, number, shape, self.kind)
            targets = scene.targets(self.smallest)
            if targets:
                break
            attempt += 1
        return sample_of_scene(scene, targets, stage.objects, rng, f"scene {index}")


class PairSource:
    """One object per image. A pair that cannot be used is replaced by the next one and reported."""

    def __init__(self, collection: Collection, network: NetworkConfig, config: TrainConfig) -> None:
        """Raises `InvalidInput` if the recipe needs depth or all objects of an image."""
        if not all(stage.objects for stage in config.stages):
            raise InvalidInput(
                "the recipe has stages without clicks (objects = 0), which learn from depth and "
                f"from all objects of an image; {collection.name} has neither. Train on `scenes`, "
                "or use a recipe whose stages all have objects"
            )
        self.collection, self.patch, self.config = collection, network.patch, config

    def __len__(self) -> int:
        return len(self.collection.pairs)

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        """As `Source.sample`. Raises `InvalidInput` if too many pairs in a row cannot be used."""
        skipped: list[str] = []
        pairs = self.collection.pairs
        for number in range(min(_MOST_SKIPS, len(pairs))):
            pair = pairs[(index + number) % len(pairs)]
            try:
                image, mask = read_pair(pair)
                image, mask = augment(image, mask, rng, self.config.augment)
                if shape is None:  # as inference: the whole image, each axis scaled on its own
                    image, mask = squash_to(image, mask, self._own_shape(mask.shape, stage))
                else:
                    image, mask = fit_to(image, mask, shape, rng)
                if mask.mean() <= self.config.smallest_target:
                    raise SkippedPair("object too small", f"{pair.name}: the object is too small")
            except SkippedPair as error:
                skipped.append(f"{error.reason}: {pair.name}")
                continue
            masks = [mask] * stage.objects
            return Sample(image, None, masks, [~mask & False] * stage.objects, pair.name,
                          tuple(skipped))  # fmt: skip
        raise InvalidInput(
            f"{len(skipped)} pairs in a row could not be used ({'; '.join(skipped[:3])}; ...); "
            f"check the files of {self.collection.name}"
        )

    def _own_shape(self, shape: tuple[int, ...], stage: Stage) -> tuple[int, int]:
        return network_size(shape[1], shape[0], stage.longest, self.patch)
