"""A mixture of sources: each batch comes from one of them, drawn by weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ois_client.contract.errors import InvalidInput
from ois_network.training.config import Stage
from ois_network.training.data.sources import Sample, Source

#: `BatchPlan` numbers the images of a step from a multiple of this (see `BatchPlan._index`).
_PER_STEP = 64


class MixtureSource:
    """Endless. All images of a step come from one source, because depth and instances are used
    only if every image of a batch has them."""

    def __init__(self, parts: Sequence[tuple[float, Source]], seed: int) -> None:
        """parts: weight and source. Raises `InvalidInput` if a weight is not positive."""
        weights = [weight for weight, _ in parts]
        if not parts or not all(weight > 0 for weight in weights):
            raise InvalidInput(f"got the weights {weights}; expected positive numbers")
        self.sources = [source for _, source in parts]
        self.shares = np.array(weights) / sum(weights)
        self.seed = seed

    def __len__(self) -> int:
        return 0

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        drawn = np.random.default_rng([self.seed, 6, index // _PER_STEP])
        number = int(drawn.choice(len(self.sources), p=self.shares))
        source = self.sources[number]
        if length := len(source):  # a finite source is seen in a random order
            index = int(np.random.default_rng([self.seed, 7, index]).integers(length))
        return source.sample(index, shape, stage, rng)
