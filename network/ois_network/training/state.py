"""The state of a training run on disk, from which it resumes to the same result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ois_client.contract.errors import CheckpointError
from ois_client.contract.files import write_file
from ois_network.training.config import TrainConfig

STATE_FILE = "state.pt"
_SCHEMA = 2


@dataclass(frozen=True, slots=True)
class RunState:
    """The state after `step` steps. Random numbers need none: they depend on (seed, step) alone.

    setting: what determines the result besides the recipe: the data, its length, the number of
    processes. skipped: "reason: name" of each pair that could not be used -> how often.
    """

    config: TrainConfig
    setting: dict[str, Any]
    step: int
    network: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimisers: list[dict[str, Any]]
    skipped: dict[str, int]

    def save(self, folder: Path) -> Path:
        """Write `folder/state.pt` in one step. Raises `OutputError`; the old file then stays."""
        content = {
            "schema": _SCHEMA,
            "config": self.config.to_dict(),
            "setting": self.setting,
            "step": self.step,
            "network": self.network,
            "average": self.average,
            "optimisers": self.optimisers,
            "skipped": self.skipped,
        }
        path = folder / STATE_FILE
        for suffix in ("part", "tmp"):  # left by a process that was killed; tmp: earlier versions
            for left in folder.glob(f".{STATE_FILE}.*.{suffix}"):
                left.unlink(missing_ok=True)
        write_file(path, lambda file: torch.save(content, file))
        return path


def load_state(folder: Path) -> RunState:
    """Read `folder/state.pt`. Raises `CheckpointError` if it is missing or not readable."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist, so there is no run to resume; start one without --resume"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {_SCHEMA}")
        return RunState(
            TrainConfig.from_dict(content["config"]),
            content["setting"],
            int(content["step"]),
            content["network"],
            content["average"],
            content["optimisers"],
            content["skipped"],
        )
    except Exception as error:
        reason = str(error).split(". ")[0]  # PyTorch adds advice that does not apply here
        raise CheckpointError(
            f"{path} cannot be read as the state of a training run: {reason}; resume it with the "
            "version that wrote it, or start a new run in another folder"
        ) from error
