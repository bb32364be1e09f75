"""A recipe that takes seconds, and functions to run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_network.initialise import build
from ois_network.training.clicks.sampler import ClickConfig
from ois_network.training.config import (
    AugmentConfig,
    LossConfig,
    OptimiserConfig,
    Stage,
    TrainConfig,
)
from ois_network.training.data.sources import SceneSource
from ois_network.training.trainer import RunOptions, train
from support.network_scenes import MICRO

STEPS = 6
RECIPE = TrainConfig(
    network="tiny",
    seed=3,
    frozen=(),
    stages=(
        Stage(longest=56, images=2, objects=2, steps=4, coarse=True),
        Stage(longest=70, images=1, objects=2, steps=2),
    ),
    optimiser=OptimiserConfig(kind="muon", lr=3e-3, schedule="cosine", warmup=2, clip_norm=1.0),
    clicks=ClickConfig(rounds=1, stride=2, single_share=0.5),
    loss=LossConfig(iou_weight=0.5, depth_weight=1.0),
    augment=AugmentConfig(on=False),
    bf16=False,
    ema=0.9,
    log_every=1,
)


CACHED = RECIPE.replace(frozen=("encoder", "depth_head"), loss=LossConfig())

#: Simple enough that one process and two give comparable results.
ONE_ROUND = RECIPE.replace(
    stages=(Stage(longest=56, images=2, objects=2, steps=4, coarse=True, rounds=0),), ema=0.0
)


def run(folder: Path, config: TrainConfig = RECIPE, **options: Any) -> Path:
    options.setdefault("workers", 0)
    options.setdefault("say", lambda _text: None)
    features = options.pop("features", None)
    return train(
        config,
        SceneSource(MICRO, config),
        RunOptions(folder, **options),
        start=build(MICRO, seed=1),
        features=features,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).network.state_dict()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Ten(SceneSource):
    """A data set of ten scenes."""

    def __len__(self) -> int:
        return 10
