"""The journal of `ois annotate`: the finished lines, so that an interrupted run can continue.

A JSON file next to the output with one entry per line: a run that started (with its model) or an
input line that is finished. Entries are only appended. If `kill -9` or a full disk cut the last
entry off, the next run drops it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ois_cli.batch.places import is_address
from ois_client.contract.errors import InvalidInput
from ois_client.contract.files import LineFile
from ois_client.contract.transport import ModelInfo


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """The mask of one object in COCO's form. counts: compressed RLE. box: x, y, width, height."""

    counts: str
    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FinishedLine:
    """A finished line of the input.

    key: `Line.key`. stamp: `file_stamp` of the image. width, height: of the upright image, in
    pixels. digest: `Picture.digest`. found: one mask per object.
    """

    key: str
    stamp: tuple[int, int]
    width: int
    height: int
    digest: str
    found: tuple[MaskRecord, ...]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FinishedLine:
        found = tuple(
            MaskRecord(str(one["counts"]), int(one["area"]), tuple(map(int, one["box"])))  # type: ignore[arg-type]
            for one in data["found"]
        )
        size, changed = map(int, data["stamp"])
        sides = int(data["width"]), int(data["height"])
        return cls(str(data["key"]), (size, changed), *sides, str(data["digest"]), found)


def file_stamp(image: str) -> tuple[int, int] | None:
    """Return the file's size in bytes and its time of change in ns; None if there is no file.

    An image at an address always has the same stamp: to ask an object store for every image of
    every run would take longer than to read the journal.
    """
    if is_address(image):
        return 0, 0
    try:
        found = Path(image).stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


class Journal:
    """The finished lines, in memory and on disk. A context manager, for one process at a time."""

    def __init__(self, path: Path, model: ModelInfo, *, overwrite: bool = False) -> None:
        """Open or create the journal; with `overwrite`, without the lines that it has.

        Raises `InvalidInput` if it is damaged or another model's, and `OutputError` if it cannot
        be written or another process has it open.
        """
        self.path = path
        self.engines: list[str] = []
        self._finished: dict[str, FinishedLine] = {}
        self._file = LineFile(path)
        try:
            if overwrite:
                self._file.clear()
            self._file.replay(lambda entry: self._take(entry, model))
            self._file.append({"run": {"model_sha256": model.model_sha256, "engine": model.engine}})
        except BaseException:
            self._file.close()
            raise
        if model.engine not in self.engines:
            self.engines.append(model.engine)

    def find(self, key: str, stamp: tuple[int, int] | None) -> FinishedLine | None:
        """Return the finished line with this key, unless its image has changed since."""
        finished = self._finished.get(key)
        return finished if finished is not None and finished.stamp == stamp else None

    def add(self, finished: FinishedLine) -> None:
        """Append a finished line. Raises `OutputError` if it cannot; earlier lines are kept."""
        self._file.append({"done": asdict(finished)})
        self._finished[finished.key] = finished

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _take(self, entry: Any, model: ModelInfo) -> None:
        if "run" in entry:
            self._take_run(entry["run"], model)
        else:
            finished = FinishedLine.from_dict(entry["done"])
            self._finished[finished.key] = finished

    def _take_run(self, run: dict[str, str], model: ModelInfo) -> None:
        if run["model_sha256"] != model.model_sha256:
            raise InvalidInput(
                f"{self.path} was started with the model {run['model_sha256'][:12]}…; got "
                f"{model.network} ({model.model_sha256[:12]}…). Continue with the first model, or "
                "start again with --overwrite"
            )
        if run["engine"] not in self.engines:
            self.engines.append(run["engine"])
