"""The state of a training run on disk: what is needed to go on to the same result."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ois_client.contract.errors import CheckpointError, OutputError
from ois_network.training.config import TrainConfig

STATE_FILE = "state.pt"
_SCHEMA = 2


@dataclass(frozen=True, slots=True)
class RunState:
    """After `step` finished steps. Everything random derives from (seed, step).

    setting: what decides the result beside the recipe (data, its length, number of processes).
    skipped: "reason: name" of pairs that could not be used -> how often.
    """

    config: TrainConfig
    setting: dict[str, Any]
    step: int
    network: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimisers: list[dict[str, Any]]
    skipped: dict[str, int]

    def save(self, folder: Path) -> Path:
        """Write `folder/state.pt`; an older one stays whole until the new one is complete."""
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
        for left in folder.glob(f".{STATE_FILE}.*.tmp"):  # by a process that was killed
            left.unlink(missing_ok=True)
        write_atomically(path, lambda file: torch.save(content, file))
        return path


def load_state(folder: Path) -> RunState:
    """Raises `CheckpointError` when there is no state in `folder` or it is unreadable."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist; there is no run to resume. Start one without --resume"
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
        raise CheckpointError(
            f"{path} is not the state of a training run of this version: {error}"
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside `path`, flush to the disk, rename over it. A failure leaves the old file.

    Raises `OutputError` when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        raise OutputError(
            f"could not write {path}: {error}. The previous file is untouched; free space or "
            "choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
