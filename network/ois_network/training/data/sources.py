"""Training samples from image + mask pairs."""

from __future__ import annotations

import numpy as np

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry
from ois_network.config import NetworkConfig
from ois_network.training.config import Stage, TrainConfig
from ois_network.training.data.augment import augment, fit_to, squash_to
from ois_network.training.data.batches import Sample
from ois_network.training.data.collections import Collection, SkippedPair, read_pair

_MOST_SKIPS = 50  # so many unusable pairs in a row are no accident


class PairSource:
    """One object an image. An unusable pair is replaced by the next one and reported."""

    def __init__(self, collection: Collection, network: NetworkConfig, config: TrainConfig) -> None:
        """Raises `InvalidInput` for a recipe that wants more than masks."""
        if not all(stage.objects for stage in config.stages):
            raise InvalidInput(
                "the recipe has stages without clicks (objects = 0), which learn from depth and "
                f"from all objects of an image; {collection.name} has neither. Use the data "
                "`scenes`, or a recipe whose stages all have objects"
            )
        self.collection, self.patch, self.config = collection, network.patch, config

    def __len__(self) -> int:
        return len(self.collection.pairs)

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        skipped: list[str] = []
        pairs = self.collection.pairs
        for number in range(min(_MOST_SKIPS, len(pairs))):
            pair = pairs[(index + number) % len(pairs)]
            try:
                image, mask = read_pair(pair)
                image, mask = augment(image, mask, rng, self.config.augment)
                if shape is None:  # as inference does it: the whole image, each axis by itself
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
            f"check {self.collection.name}"
        )

    def _own_shape(self, shape: tuple[int, ...], stage: Stage) -> tuple[int, int]:
        geometry = Geometry.fit(shape[1], shape[0], longest=stage.longest, patch=self.patch)
        return geometry.network_width, geometry.network_height
