"""When each stage of a recipe begins, and when the run ends."""

from __future__ import annotations

import math

from ois_client.contract.errors import InvalidInput
from ois_network.training.config import Stage, TrainConfig


def plan_stages(
    config: TrainConfig, epoch_length: int, world: int
) -> tuple[list[tuple[int, Stage]], int]:
    """-> (first step, stage) of each stage, and the total number of steps.

    Raises `InvalidInput` for epochs of data without an end.
    """
    if not epoch_length and any(stage.epochs for stage in config.stages):
        raise InvalidInput(
            "the recipe counts epochs, but procedural scenes have no end; give a data set "
            "(--data hqseg44k:ROOT, davis:ROOT or folders:IMAGES,MASKS), or stages with steps"
        )
    stages, first = [], 0
    for stage in config.stages:
        steps = stage.steps
        if not steps:
            images = stage.images * config.accumulate * world
            steps = math.ceil(stage.epochs * epoch_length / images)
        stages.append((first, stage))
        first += steps
    return stages, first
