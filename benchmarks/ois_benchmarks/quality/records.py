"""A quality log: one JSON line per object, so that runs can be resumed and compared.

    {"quality_log": 1, "dataset": ..., "clicks": 20, "model": ..., "machine": ...}
    {"name": "scene-00000", "width": 640, "height": 480, "area": 9120, "ious": [...],
     "clicks": [[x, y, positive], ...], "right": [true, ...], "boundary": [[0.61, 0.83], ...], ...}
    {"name": "scene-00001", "skipped": "empty mask"}

A line that was cut off by an interruption is dropped. If a name occurs twice (the object failed
and was tried again), the later line counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.quality.datasets import with_present_fingerprint
from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import LineFile

SCHEMA = 1
_BEGINNING = b'{"quality_log": '
T = TypeVar("T")

#: Keys of the header that must agree before a run resumes in an existing file.
_IDENTITY = ("dataset", "clicks", "model")


@dataclass(frozen=True, slots=True)
class Failure:
    """click: number of the click that failed, from 1; 0 = the image could not be opened."""

    click: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One object. width, height: of the image in pixels. area: of the true mask in pixels. ious:
    after each click that succeeded. clicks: (x, y, positive), x and y in pixels of the image.

    picture: name of the image if it can have several objects. right: after each click, whether its
    own pixel was inside the mask (positive) or outside of it (negative). boundary: after each
    click, `Boundary.ious`. thinness: of the true mask. These three are None in logs of earlier
    versions.
    """

    name: str
    width: int
    height: int
    area: int
    ious: tuple[float, ...]
    clicks: tuple[tuple[float, float, bool], ...]
    seconds: float
    failure: Failure | None = None
    picture: str = ""
    right: tuple[bool, ...] | None = None
    boundary: tuple[tuple[float, float], ...] | None = None
    thinness: float | None = None

    @property
    def image(self) -> str:
        """What the objects of one image have in common."""
        return self.picture or self.name

    def held_ious(self, clicks: int) -> list[float]:
        """IoU after 1..`clicks` clicks.

        A failed click leaves the mask as it was. So from there on the last IoU is repeated, or 0
        if there was no mask yet.
        """
        return _held(self.ious, clicks, 0.0)

    def held_boundary(self, clicks: int) -> list[tuple[float, float]] | None:
        """`boundary` after 1..`clicks` clicks, continued in the same way."""
        return None if self.boundary is None else _held(self.boundary, clicks, (0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image and mask that cannot be measured. skipped: the reason."""

    name: str
    skipped: str


Record = Measured | Skipped


@dataclass(frozen=True, slots=True)
class Log:
    """The contents of a log. records: by name, in the order in which they were first written."""

    path: Path
    header: Mapping[str, Any]
    records: Mapping[str, Record]

    @property
    def clicks(self) -> int:
        return int(self.header["clicks"])

    @property
    def measured(self) -> dict[str, Measured]:
        return {name: r for name, r in self.records.items() if isinstance(r, Measured)}

    @property
    def skipped(self) -> list[Skipped]:
        return [record for record in self.records.values() if isinstance(record, Skipped)]

    def ious(self, names: list[str] | None = None) -> NDArray[np.float64]:
        """IoUs of the named objects, or of all: (N, clicks)."""
        measured = self.measured
        chosen = measured if names is None else names
        rows = [measured[name].held_ious(self.clicks) for name in chosen]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.clicks)

    def boundary(self, names: list[str] | None = None) -> NDArray[np.float64] | None:
        """Boundary IoUs of the named objects, or of all: (N, clicks, 2); None if one lacks them."""
        measured = self.measured
        rows = []
        for name in measured if names is None else names:
            if (held := measured[name].held_boundary(self.clicks)) is None:
                return None
            rows.append(held)
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.clicks, 2)


def read_log(path: Path) -> Log:
    """Read a log. Raises `InvalidInput` if the file is missing, damaged, or not a log."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the log {path} cannot be read: {error.strerror}") from error
    return _parse(path, data)


def with_present_precision(model: Mapping[str, Any]) -> dict[str, Any]:
    """`model` with fp32 and fp16 in "engine", where earlier versions wrote f32 and f16."""
    renamed = dict(model)
    if "engine" in renamed:
        renamed["engine"] = re.sub(r"\bf(?=(32|16)\b)", "fp", renamed["engine"])
    return renamed


class LogWriter:
    """Appends records to a log. When `append` returns, the record is written to the file."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Create `path`, or resume the run that it holds.

        header: JSON values with at least `dataset`, `clicks` and `model`. Raises `InvalidInput`
        if the file holds another run or is not a log, and `OutputError` if it cannot be written
        or another process is writing it.
        """
        self.path = path
        if path.exists() and not path.is_file():
            raise _not_a_log(path)  # reading a device may never end
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        self._file = LineFile(path)
        try:
            log = self._continue({"quality_log": SCHEMA, **header})
        except BaseException:
            self._file.close()
            raise
        self._header, self._records = log.header, dict(log.records)

    def append(self, record: Record) -> None:
        """Append a record. Raises `OutputError`; earlier records stay readable."""
        self._file.append(asdict(record))
        self._records[record.name] = record

    @property
    def log(self) -> Log:
        """The current contents of the file."""
        return Log(self.path, self._header, self._records)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _continue(self, header: dict[str, Any]) -> Log:
        data = self._file.read()
        if b"\n" not in data:
            if data[: len(_BEGINNING)] != _BEGINNING[: len(data)]:
                raise _not_a_log(self.path)
            self._file.drop_cut_off()
            self._file.append(header)
            return Log(self.path, header, {})
        log = _parse(self.path, data)
        wanted = json.loads(json.dumps(header))
        for key in _IDENTITY:
            if log.header[key] != wanted[key]:
                raise InvalidInput(
                    f"{self.path} holds another run: its {key} is {log.header[key]}, this run's "
                    f"is {wanted[key]}. Name another output file, or remove this one"
                )
        self._file.drop_cut_off()
        return log


def _parse(path: Path, data: bytes) -> Log:
    header: dict[str, Any] | None = None
    records: dict[str, Record] = {}
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            fields = json.loads(line)
            if header is None:
                if fields["quality_log"] != SCHEMA:
                    raise _not_a_log(path)
                header = {key: fields[key] for key in (*_IDENTITY, *fields)}
                header["dataset"] = with_present_fingerprint(dict(header["dataset"]))
                header["model"] = with_present_precision(header["model"])
            else:
                record = _record(fields)
                records[record.name] = record
        except (ValueError, KeyError, TypeError) as error:
            if header is None:
                raise _not_a_log(path) from error
            raise InvalidInput(
                f"{path}, line {number}, is damaged ({type(error).__name__}: {error}); remove "
                "the line and run the same command to measure the object again"
            ) from error
    if header is None:
        raise _not_a_log(path)
    return Log(path, header, records)


def _record(fields: dict[str, Any]) -> Record:
    if "skipped" in fields:
        return Skipped(**fields)
    failure = fields.pop("failure", None)
    ious = tuple(float(value) for value in fields.pop("ious"))
    clicks = tuple((float(x), float(y), bool(sign)) for x, y, sign in fields.pop("clicks"))
    if fields.get("right") is not None:
        fields["right"] = tuple(bool(value) for value in fields["right"])
    if fields.get("boundary") is not None:
        fields["boundary"] = tuple((float(near), float(far)) for near, far in fields["boundary"])
    return Measured(
        **fields, ious=ious, clicks=clicks, failure=Failure(**failure) if failure else None
    )


def _held(values: tuple[T, ...], clicks: int, nothing: T) -> list[T]:
    return [*values, *(values[-1:] or (nothing,)) * (clicks - len(values))]


def _not_a_log(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} is not a log of `ois bench quality` (schema {SCHEMA}); name another file"
    )
