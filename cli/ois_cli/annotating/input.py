"""The input of `ois annotate`: one JSON object per line, with an image and clicks on objects.

A file can also be Parquet: the keys are its columns, and a row is a line.

    {"image": "cat.jpg", "points": [[245, 150], [60, 200]], "labels": [1, 1], "category": "cat"}
    {"image": "dog.jpg", "id": "b-17", "objects": [{"points": [[80, 40]], "category": "dog"},
                                                   {"points": [[9, 9], [5, 5]], "labels": [1, 0]}]}

image     path or address; a relative path starts at the folder of the file, or at --root
points    clicks on one object in order, [x, y] in pixels of the upright image
labels    one per point, 1 adds and 0 removes; by default, all add
category  of the object; "object" by default
objects   several objects; each has points, and may have labels, category and id
id        of a line or an object: text or a whole number, copied to the result
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ois_cli.batch.places import is_address, join, parent, records
from ois_cli.batch.progress import Failure
from ois_client.contract.clicks import Click, check_count
from ois_client.contract.errors import InvalidClick, InvalidInput, OISError

DEFAULT_CATEGORY = "object"

_OBJECT_KEYS = frozenset({"points", "labels", "category", "id"})
_LINE_KEYS = _OBJECT_KEYS | {"image", "objects"}

Id = str | int | None


@dataclass(frozen=True, slots=True)
class Target:
    """One object. clicks: in order. category, id: the user's names for it."""

    clicks: tuple[Click, ...]
    category: str
    id: Id


@dataclass(frozen=True, slots=True)
class Line:
    """One valid line.

    number: from 1. name: the image's path as written. image: its absolute path or its address.
    key: a hash of the content; lines with equal keys have equal results.
    """

    number: int
    name: str
    image: str
    id: Id
    targets: tuple[Target, ...]
    key: str

    def failure(self, error: OISError) -> Failure:
        return Failure({"line": self.number, "id": self.id, "image": self.name}, error)


@dataclass(frozen=True, slots=True)
class Input:
    """The content of a file. lines: the valid lines in order. failures: the other lines."""

    lines: tuple[Line, ...]
    failures: tuple[Failure, ...]

    def by_image(self) -> dict[str, list[Line]]:
        """Group the lines by image, in order of first appearance, so that each is encoded once."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.image, []).append(line)
        return found


def read_input(place: str, root: str | None) -> Input:
    """Read a file of clicks. root: the folder of relative images; None: the folder of the file.

    Both are paths or addresses. Raises `InvalidInput` if the file cannot be read or has no valid
    line.
    """
    lines: list[Line] = []
    failures: list[Failure] = []
    for number, raw in records(place):
        record: Any = raw
        try:
            record = _parse(raw) if isinstance(raw, bytes) else raw
            lines.append(_line(number, record, root or parent(place)))
        except OISError as error:
            known = record if isinstance(record, dict) else {}
            named = {key: known.get(key) for key in ("id", "image")}
            failures.append(Failure({"line": number, **named}, error))
    if not lines:
        first = f", the first: {failures[0].error}" if failures else ""
        raise InvalidInput(
            f"{place} has no valid line ({len(failures)} invalid{first}); expected one JSON object "
            'per line, such as {"image": "cat.jpg", "points": [[245, 150]]}'
        )
    return Input(tuple(lines), tuple(failures))


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"got a line that is not JSON ({error}); expected a JSON object"
        ) from None
    if not isinstance(record, dict):
        raise InvalidInput(f"got {type(record).__name__}; expected a JSON object")
    return record


def _line(number: int, record: Mapping[str, Any], root: str) -> Line:
    _check_keys(record, _LINE_KEYS)
    name = record.get("image")
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidInput(f"got image = {name!r}; expected the path of an image")
    image = join(root, name)
    if not is_address(image):
        try:
            image = str(Path(image).resolve())
        except (OSError, ValueError, RuntimeError) as error:  # invalid characters, a loop of links
            raise InvalidInput(f"got image = {name!r}, which is not a path: {error}") from error
    canonical = json.dumps([image, record], sort_keys=True)
    key = hashlib.sha256(canonical.encode()).hexdigest()
    return Line(number, name, image, _id(record), tuple(_targets(record)), key)


def _targets(record: Mapping[str, Any]) -> Iterator[Target]:
    objects = record.get("objects")
    if objects is None:
        yield _target(record, record.get("category", DEFAULT_CATEGORY), None)
        return
    if "points" in record or "labels" in record:
        raise InvalidInput("got points or labels next to objects; expected them in each object")
    if not isinstance(objects, list) or not objects:
        raise InvalidInput("got objects that are empty or not a list; expected at least one object")
    for given in objects:
        if not isinstance(given, dict):
            raise InvalidInput(f"got the object {given!r}; expected a JSON object with points")
        _check_keys(given, _OBJECT_KEYS)
        category = given.get("category", record.get("category", DEFAULT_CATEGORY))
        yield _target(given, category, _id(given))


def _target(given: Mapping[str, Any], category: Any, identity: Id) -> Target:
    if not isinstance(category, str) or not category:
        raise InvalidInput(f"got category = {category!r}; expected a name")
    points = given.get("points")
    if not isinstance(points, list) or not points:
        raise InvalidClick(f"got points = {points!r}; expected a list of [x, y], at least one")
    labels = given.get("labels", [1] * len(points))
    if not isinstance(labels, list) or len(labels) != len(points):
        raise InvalidClick(f"got labels = {labels!r}; expected {len(points)}, one per point")
    clicks = tuple(_click(point, label) for point, label in zip(points, labels, strict=True))
    check_count(clicks)
    return Target(clicks, category, identity)


def _click(point: Any, label: Any) -> Click:
    if type(label) is not int or label not in (0, 1):
        raise InvalidClick(f"got the label {label!r}; expected 1 (adds) or 0 (removes)")
    if not isinstance(point, list) or [_is_number(value) for value in point] != [True, True]:
        raise InvalidClick(f"got the point {point!r}; expected [x, y]")
    return Click(float(point[0]), float(point[1]), bool(label))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31


def _id(given: Mapping[str, Any]) -> Id:
    identity = given.get("id")
    if identity is not None and type(identity) not in (str, int):
        raise InvalidInput(f"got id = {identity!r}; expected text or a whole number")
    return identity


def _check_keys(given: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        raise InvalidInput(f"got the unknown key {unknown[0]!r}; expected {sorted(known)}")
