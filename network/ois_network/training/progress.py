"""What a run reports: metrics as JSON lines, TensorBoard where installed, an estimate of time."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ois_client.contract.errors import OutputError
from ois_network.training.state import write_atomically

METRICS_FILE = "metrics.jsonl"


class Progress:
    """Averages the losses of `every` steps and writes one line for them."""

    def __init__(
        self, folder: Path, total: int, every: int, say: Callable[[str], None], first: int
    ) -> None:
        self.total, self.every, self.say = total, every, say
        self.path = folder / METRICS_FILE
        self.sums: defaultdict[str, list[float]] = defaultdict(list)
        self.started, self.first = time.monotonic(), first
        self.last = self.started
        self.pace = 0.0  # seconds a step, moving average
        self.board = _tensorboard(folder, first)
        _drop_lines_after(self.path, first)

    def step(self, number: int, values: dict[str, float], rate: float) -> None:
        """After step `number` (the first is 1)."""
        now = time.monotonic()
        took, self.last = now - self.last, now
        weight = 0.05 if self.pace else 1.0
        self.pace += weight * (took - self.pace)
        for name, value in values.items():
            self.sums[name].append(value)
        if number % self.every and number != self.total:
            return
        means = {name: sum(items) / len(items) for name, items in self.sums.items()}
        self.sums.clear()
        self.write({"step": number, "lr": rate, **means, "seconds_per_step": self.pace})
        left = (self.total - number) * self.pace
        text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        self.say(
            f"step {number}/{self.total}  {text}  lr {rate:.2e}  {self.pace:.2f} s/step  "
            f"left {left / 60:.0f} min"
        )

    def write(self, record: dict[str, Any]) -> None:
        """Append one record to the metrics file (and TensorBoard)."""
        record = {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in record.items()
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(f"could not write {self.path}: {error}; free space") from error
        if self.board is not None:
            for key, value in record.items():
                if key != "step" and isinstance(value, int | float):
                    self.board.add_scalar(key, value, record["step"])

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Points of steps that a resumed run does again are dropped, as in the metrics file.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1 if first else None)


def _drop_lines_after(path: Path, step: int) -> None:
    """Forget records of steps that a resumed run will do again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line).get("step", 0) <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:  # cut off while it was written
            continue
    write_atomically(path, lambda file: file.write("".join(kept).encode()))
