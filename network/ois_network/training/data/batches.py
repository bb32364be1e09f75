"""Training batches: B images of one shape with N objects, each with its first clicks.

A batch depends on (seed, step) alone, not on the number of workers. So a resumed run gets the same
batches as one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ois_client.contract.clicks import SLOTS
from ois_client.contract.geometry import Geometry
from ois_network.config import NetworkConfig
from ois_network.training.clicks.sampler import first_clicks
from ois_network.training.config import Stage, TrainConfig
from ois_network.training.data.sources import Sample, Source


@dataclass(frozen=True, slots=True)
class Batch:
    """B images with N objects.

    image: (B, h, w, 3) uint8 RGB. depth: (B, h, w) inverse depth, or None. instances: (B, h, w)
    uint8, 0 = background, or None. owner: (N) int64, the image of each object. target: (N, h, w)
    bool, 1 = object. points, labels: as in `Prompts`. pos_rows (gh, T), pos_cols (gw, T): see
    `Geometry.position_matrices`. skipped: see `Sample`.
    """

    image: Tensor
    depth: Tensor | None
    instances: Tensor | None
    owner: Tensor
    target: Tensor
    points: Tensor
    labels: Tensor
    pos_rows: Tensor
    pos_cols: Tensor
    names: tuple[str, ...]
    skipped: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """A copy on `device`."""
        values: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            values[name] = value.to(device) if isinstance(value, Tensor) else value
        return Batch(**values)


#: (columns, rows) of the patch grid as shares of the longest side; one in three is square.
_SHAPES = ((1.0, 1.0), (1.0, 1.0), (1.0, 0.75), (1.0, 0.5625), (0.75, 1.0), (1.0, 0.667))


class BatchPlan(torch.utils.data.Dataset[Batch]):
    """Batch `k` of this process; every step has `accumulate` of them."""

    def __init__(
        self,
        source: Source,
        network: NetworkConfig,
        config: TrainConfig,
        stages: list[tuple[int, Stage]],
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """stages: (first step, stage) in order, see `plan_stages`."""
        self.source, self.network, self.config = source, network, config
        self.stages, self.rank, self.world = stages, rank, world

    def stage(self, step: int) -> Stage:
        """The stage to which a step belongs."""
        return next(stage for first, stage in reversed(self.stages) if step >= first)

    def __getitem__(self, number: int) -> Batch:
        config = self.config
        step, part = divmod(number, config.accumulate)
        stage = self.stage(step)
        shared = np.random.default_rng([config.seed, step, 1])  # one shape per step for all ranks
        part = part * self.world + self.rank
        rng = np.random.default_rng([config.seed, step, 2, part])
        shape = self._shape(stage, shared)
        slots = config.accumulate * self.world * stage.images
        samples = []
        for i in range(stage.images):
            index = self._index(step, stage, slots, part * stage.images + i)
            single = stage.images == 1 and len(self.source) > 0
            samples.append(self.source.sample(index, None if single else shape, stage, rng))
        return self._collate(samples, rng)

    def _index(self, step: int, stage: Stage, slots: int, slot: int) -> int:
        length = len(self.source)
        if not length:
            return step * 64 + slot if slots <= 64 else step * slots + slot
        first = next(first for first, item in reversed(self.stages) if item is stage)
        drawn = (step - first) * slots + slot
        epoch, position = divmod(drawn, length)
        order = np.random.default_rng([self.config.seed, 3, first, epoch]).permutation(length)
        return int(order[position])

    def _shape(self, stage: Stage, rng: np.random.Generator) -> tuple[int, int]:
        wide, high = _SHAPES[int(rng.integers(len(_SHAPES)))]
        patch = self.network.patch
        cells = stage.longest // patch
        return max(1, round(cells * wide)) * patch, max(1, round(cells * high)) * patch

    def _collate(self, samples: list[Sample], rng: np.random.Generator) -> Batch:
        height, width = samples[0].image.shape[:2]
        geometry = Geometry.fit(width, height, longest=max(width, height), patch=self.network.patch)
        rows, columns = geometry.position_matrices(self.network.position_table)
        owner, target, points, labels = [], [], [], []
        for number, sample in enumerate(samples):
            for mask, others in zip(sample.masks, sample.others, strict=True):
                place, label = first_clicks(mask, others, rng, self.config.clicks)
                owner.append(number)
                target.append(mask)
                points.append(place)
                labels.append(label)
        return Batch(
            image=torch.from_numpy(np.stack([sample.image for sample in samples])),
            depth=_stack([sample.depth for sample in samples]),
            instances=_stack([sample.instances for sample in samples]),
            owner=torch.tensor(owner, dtype=torch.int64),
            target=torch.from_numpy(np.array(target, dtype=bool).reshape(-1, height, width)),
            points=torch.from_numpy(np.array(points, dtype=np.float32).reshape(-1, SLOTS, 2)),
            labels=torch.from_numpy(np.array(labels, dtype=np.int32).reshape(-1, SLOTS)),
            pos_rows=torch.from_numpy(rows),
            pos_cols=torch.from_numpy(columns),
            names=tuple(sample.name for sample in samples),
            skipped=tuple(item for sample in samples for item in sample.skipped),
        )


def _stack(maps: list[Any]) -> Tensor | None:
    """The maps as one tensor, or None if some image has none."""
    known = [item for item in maps if item is not None]
    return torch.from_numpy(np.stack(known)) if len(known) == len(maps) else None


class Consecutive(torch.utils.data.Sampler[int]):
    """Batch numbers from `first` to `last` - 1."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last - self.first
