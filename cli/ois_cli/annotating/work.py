"""The masks of the lines of one image, with engines in this process or on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.annotating.input import Line, Target
from ois_cli.annotating.journal import FinishedLine, MaskRecord
from ois_cli.batch.places import source_of
from ois_cli.batch.progress import error_of_item
from ois_cli.clicking import OBJECTS_AT_ONCE, fits_one_request, object_box
from ois_cli.output import progress
from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.images import Picture, load_image
from ois_client.contract.masks import coco_of_mask
from ois_client.contract.transport import ModelInfo
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session
from ois_client.transports.address import is_server


@dataclass(frozen=True, slots=True)
class ImageLines:
    """Lines of one image. stamp: `file_stamp` of the image."""

    image: str
    stamp: tuple[int, int]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class LineResult:
    """number: `Line.number`. found: the finished line, or why it failed."""

    number: int
    found: FinishedLine | OISError


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotating:
    """The work: `Client`'s url, its token, a folder of features, and the CPU threads."""

    url: str
    token: str | None = None
    features: Path | None = None
    threads: int | None = None

    @contextmanager
    def open(self) -> Iterator[Annotator]:
        """Raises what `Client` raises, and `InvalidInput` if a server is given features on disk."""
        url = self.url
        if is_server(url) and self.features is not None:
            raise InvalidInput(
                f"got --features with {url}; expected local:, because a server cannot read features"
                f" on this disk. `ois encode --url {url}` encodes the images on the server"
            )
        local = {"features": self.features, "threads": self.threads}
        available: dict[str, Any] = {"token": self.token} if is_server(url) else local
        chosen = {name: value for name, value in available.items() if value is not None}
        with progress("connecting" if is_server(url) else "loading the engines"):
            client = Client(url, **chosen)
        with client:
            yield Annotator(client, stateless=is_server(url))


class Annotator:
    """Makes the masks of the lines of images."""

    def __init__(self, client: Client, *, stateless: bool) -> None:
        """stateless: an image that needs one answer only is sent in one request, so that the
        server does not keep features that nobody asks for again."""
        self._client = client
        self._stateless = stateless

    @property
    def info(self) -> ModelInfo:
        return self._client.info

    def process(self, item: ImageLines) -> Iterator[LineResult]:
        """Yield a result per line, in order. Raises the errors that end the run."""
        lines = item.lines
        if self._stateless and len(lines) == 1 and _fits_one_request(lines[0]):
            yield _attempt(lines[0], item.stamp, self._alone)
            return
        try:
            session = self._client.open(source_of(item.image))
        except Exception as error:
            known = error_of_item(error)
            yield from (LineResult(line.number, known) for line in lines)
            return
        for line in lines:
            yield _attempt(line, item.stamp, partial(_in_session, session))

    def _alone(self, line: Line) -> tuple[Picture, tuple[MaskRecord, ...]]:
        """The masks of a line, in one request without a session."""
        picture = load_image(source_of(line.image))
        reply = self._client.segment(picture.data, [target.clicks for target in line.targets])
        return picture, tuple(map(_record, reply.masks))


def _attempt(
    line: Line,
    stamp: tuple[int, int],
    make: Callable[[Line], tuple[Picture, tuple[MaskRecord, ...]]],
) -> LineResult:
    try:
        picture, found = make(line)
    except Exception as error:
        return LineResult(line.number, error_of_item(error))
    sides = picture.width, picture.height
    return LineResult(line.number, FinishedLine(line.key, stamp, *sides, picture.digest, found))


def _in_session(session: Session, line: Line) -> tuple[Picture, tuple[MaskRecord, ...]]:
    picture = session.picture
    for target in line.targets:
        for click in target.clicks:
            click.check(picture.width, picture.height)
    found = (
        one
        for start in range(0, len(line.targets), OBJECTS_AT_ONCE)
        for one in masks_of(session, line.targets[start : start + OBJECTS_AT_ONCE])
    )
    return picture, tuple(found)


def _fits_one_request(line: Line) -> bool:
    return fits_one_request([target.clicks for target in line.targets])


def masks_of(session: Session, targets: tuple[Target, ...]) -> Iterator[MaskRecord]:
    """Yield the mask of each object after all its clicks.

    The n-th clicks of all objects are sent in one request. Uses the session's first objects and
    resets them.
    """
    while len(session.objects) < len(targets):
        session.new_object()
    objects = session.objects[: len(targets)]
    try:
        for turn in range(max(len(target.clicks) for target in targets)):
            session.click_many(
                {
                    obj: target.clicks[turn]
                    for obj, target in zip(objects, targets, strict=True)
                    if turn < len(target.clicks)
                }
            )
        for obj in objects:
            yield _record(session.mask(obj))
    finally:
        for obj in objects:
            session.reset(obj)


def _record(mask: NDArray[np.uint8]) -> MaskRecord:
    corners = object_box(mask)
    x0, y0, x1, y1 = corners or (0, 0, -1, -1)
    return MaskRecord(
        coco_of_mask(mask)["counts"], int(mask.sum()), (x0, y0, x1 - x0 + 1, y1 - y0 + 1)
    )
