"""What `ois annotate` has done so far, beside its output, so that it can be stopped at any time.

A line of JSON each: a run that began (which model), and a line of the input that is done. Lines
are only appended; one that was cut off, by `kill -9` or a full disk, is dropped by the next run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ois_client.contract.errors import InvalidInput
from ois_client.contract.files import LineFile
from ois_client.contract.transport import ModelInfo


@dataclass(frozen=True, slots=True)
class Found:
    """The mask of one object as COCO has it. counts: compressed; box: x, y, width, height."""

    counts: str
    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Done:
    """A line of the input that was answered.

    key: `Line.key`. stamp: size and time of change of the image's file, in bytes and ns.
    width, height: of the upright image, in pixels. digest: `Picture.digest`.
    """

    key: str
    stamp: tuple[int, int]
    width: int
    height: int
    digest: str
    found: tuple[Found, ...]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Done:
        found = tuple(
            Found(str(one["counts"]), int(one["area"]), tuple(map(int, one["box"])))  # type: ignore[arg-type]
            for one in data["found"]
        )
        size, changed = map(int, data["stamp"])
        sides = int(data["width"]), int(data["height"])
        return cls(str(data["key"]), (size, changed), *sides, str(data["digest"]), found)


def stamp_of(image: Path) -> tuple[int, int] | None:
    """`Done.stamp` of an image now; None when there is no such file."""
    try:
        found = image.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


class Journal:
    """A context manager. Only one process has it open at a time."""

    def __init__(self, path: Path, model: ModelInfo) -> None:
        """Raises `InvalidInput` when it is another model's, or damaged; `OutputError`."""
        self.path = path
        self.engines: list[str] = []
        self._done: dict[str, Done] = {}
        self._file = LineFile(path)
        try:
            self._read(model)
            self._file.append({"run": {"model_sha256": model.model_sha256, "engine": model.engine}})
        except BaseException:
            self._file.close()
            raise
        if model.engine not in self.engines:
            self.engines.append(model.engine)

    def find(self, key: str, stamp: tuple[int, int] | None) -> Done | None:
        """What is known of a line, if its image is still the one that it was."""
        done = self._done.get(key)
        return done if done is not None and done.stamp == stamp else None

    def add(self, done: Done) -> None:
        """Raises `OutputError` when it cannot be written; what was there stays."""
        self._file.append({"done": asdict(done)})
        self._done[done.key] = done

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

    def _read(self, model: ModelInfo) -> None:
        *lines, _cut_off = self._file.read().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                if "run" in entry:
                    self._take_run(entry["run"], model)
                else:
                    done = Done.from_dict(entry["done"])
                    self._done[done.key] = done
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(
                    f"{self.path}, line {number}, is damaged ({type(error).__name__}: {error}). "
                    "Begin again with --overwrite"
                ) from error
        self._file.drop_cut_off()

    def _take_run(self, run: dict[str, str], model: ModelInfo) -> None:
        if run["model_sha256"] != model.model_sha256:
            raise InvalidInput(
                f"{self.path} was begun with the model {run['model_sha256'][:12]}…; this one is "
                f"{model.network} ({model.model_sha256[:12]}…). Go on with that one, or begin "
                "again with --overwrite"
            )
        if run["engine"] not in self.engines:
            self.engines.append(run["engine"])
