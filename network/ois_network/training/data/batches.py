"""Training batches: B images of one shape, N objects on them, each with its first clicks.

A batch is a function of (seed, step) alone, so that a resumed run sees what an uninterrupted
one would have seen, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ois_client.contract.clicks import SLOTS
from ois_client.contract.geometry import Geometry
from ois_network.config import NetworkConfig
from ois_network.training.clicks.sampler import first_clicks
from ois_network.training.config import Stage, TrainConfig
from ois_network.training.scenes import scene as scenes


@dataclass(frozen=True, slots=True)
class Sample:
    """One image at network size with at least one object.

    image (h, w, 3) uint8 RGB; depth (h, w) float32 inverse depth or None; masks: list of
    (h, w) bool; others: for each mask, the other objects' pixels; skipped: what could not be
    used in its place, as "reason: name"; instances (h, w) uint8, 0 = background, where all
    objects of the image are known.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32] | None
    masks: list[NDArray[np.bool_]]
    others: list[NDArray[np.bool_]]
    name: str = ""
    skipped: tuple[str, ...] = ()
    instances: NDArray[np.uint8] | None = None


class Source(Protocol):
    """Where samples come from; `shape` is (width, height) at network size."""

    def __len__(self) -> int:
        """Images in an epoch; 0 when there is no end to them."""
        ...

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        """Image `index`; without a `shape`, at the shape of its own aspect."""
        ...


class SceneSource:
    """Procedural scenes, without end."""

    def __init__(self, network: NetworkConfig, config: TrainConfig) -> None:
        self.patch = network.patch
        self.smallest = config.smallest_target or scenes.SMALLEST_TARGET
        self.first = config.seed * 100_000_000  # other seeds see other scenes

    def __len__(self) -> int:
        return 0

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        if shape is None:
            width, height = scenes.scene_size(scenes.TRAIN_SEED, index)
            geometry = Geometry.fit(width, height, longest=stage.longest, patch=self.patch)
            shape = geometry.network_width, geometry.network_height
        attempt = 0
        while True:  # a scene without a large enough object gives way to another
            scene = scenes.render(
                scenes.TRAIN_SEED, self.first + index + attempt * 50_000_000, shape
            )
            targets = scene.targets(self.smallest)
            if targets:
                break
            attempt += 1
        count = stage.objects
        chosen = [targets[k] for k in rng.permutation(len(targets))[:count]]
        while len(chosen) < count:
            chosen.append(targets[int(rng.integers(len(targets)))])
        masks = [scene.instances == k for k in chosen]
        others = [(scene.instances > 0) & ~mask for mask in masks]
        return Sample(
            scene.image, scene.depth, masks, others, f"scene {index}", instances=scene.instances
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """image (B, h, w, 3) uint8; depth (B, h, w) or None; instances (B, h, w) uint8 or None;
    owner (N); target (N, h, w) bool; points (N, 48, 2), labels (N, 48); pos_rows (gh, T),
    pos_cols (gw, T).
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
        values: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            values[name] = value.to(device) if isinstance(value, Tensor) else value
        return Batch(**values)


#: Grid aspects (columns, rows) as shares of the longest side; square pictures half the time.
_SHAPES = ((1.0, 1.0), (1.0, 1.0), (1.0, 0.75), (1.0, 0.5625), (0.75, 1.0), (1.0, 0.667))


class BatchPlan(torch.utils.data.Dataset[Batch]):
    """Batch number `k` of the run (a step has `accumulate` of them, for each process)."""

    def __init__(
        self,
        source: Source,
        network: NetworkConfig,
        config: TrainConfig,
        stages: list[tuple[int, Stage]],
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """stages: (first step, stage), in order."""
        self.source, self.network, self.config = source, network, config
        self.stages, self.rank, self.world = stages, rank, world

    def stage(self, step: int) -> Stage:
        return next(stage for first, stage in reversed(self.stages) if step >= first)

    def __getitem__(self, number: int) -> Batch:
        config = self.config
        step, part = divmod(number, config.accumulate)
        stage = self.stage(step)
        shared = np.random.default_rng([config.seed, step, 1])  # one shape a step, all ranks
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
    """The maps as one tensor, or None unless every image has one."""
    known = [item for item in maps if item is not None]
    return torch.from_numpy(np.stack(known)) if len(known) == len(maps) else None


class Consecutive(torch.utils.data.Sampler[int]):
    """Batch numbers first, first + 1, ... last - 1."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last - self.first
