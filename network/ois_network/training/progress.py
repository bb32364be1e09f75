"""The reports of a run: metrics as JSON lines and for TensorBoard, and the time that is left."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ois_client.contract.errors import OutputError
from ois_client.contract.files import write_file

METRICS_FILE = "metrics.jsonl"


class Progress:
    """Writes one line per `every` steps, with the mean of their losses."""

    def __init__(
        self, folder: Path, total: int, every: int, say: Callable[[str], None], first: int
    ) -> None:
        self.total, self.every, self.say = total, every, say
        self.path = folder / METRICS_FILE
        self.sums: defaultdict[str, list[float]] = defaultdict(list)
        self.started, self.first = time.monotonic(), first
        self.last = self.started
        self.pace = 0.0  # seconds per step, moving average
        self.board = _tensorboard(folder, first)
        _drop_lines_after(self.path, first)

    def step(self, number: int, values: dict[str, float], rate: float) -> None:
        """Record step `number`; the first is 1."""
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
        """Append a record to the metrics file and to TensorBoard. Raises `OutputError`."""
        record = {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in record.items()
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error}; free space") from error
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
    # Drop the points of steps that a resumed run repeats, as in the metrics file.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1 if first else None)


def _drop_lines_after(path: Path, step: int) -> None:
    """Drop the records of steps that a resumed run repeats."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line).get("step", 0) <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:  # a line that was cut off
            continue
    write_file(path, "".join(kept).encode())
