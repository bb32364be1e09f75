"""The interface between a session and whatever runs the engines: four calls and their values.

A transport keeps no session. It may drop an image at any time and then raises `UnknownImage`;
the session repeats the click together with the picture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import Cancelled, IncompatibleServer, InvalidInput
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import Picture


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model behind a transport; enough to build the `Geometry` of any image."""

    network: str
    #: longest side of the network's input in pixels
    longest: int
    #: side of a ViT patch in network pixels
    patch: int
    #: must equal `geometry.PREPROCESS_VERSION`
    preprocess_version: str
    model_sha256: str
    #: False for random weights: masks mean nothing, but timings do
    trained: bool
    engine: str
    #: cells of the coverage along each side of a patch (`coverage.py`)
    coverage_scale: int = 1
    #: whether clicks can be answered coarsely before they are answered in full (`Answer`)
    coarse_answers: bool = False

    def fit(self, width: int, height: int) -> Geometry:
        """The geometry of a `width` x `height` image. Raises as `Geometry.fit`."""
        return Geometry.fit(
            width,
            height,
            longest=self.longest,
            patch=self.patch,
            coverage_scale=self.coverage_scale,
        )


def check_compatible(model: ModelInfo) -> None:
    """Raise `IncompatibleServer` unless this client places clicks where the engines expect them."""
    if model.preprocess_version != PREPROCESS_VERSION:
        raise IncompatibleServer(
            f"the engines were built for the preprocessing {model.preprocess_version!r}, this "
            f"client sends clicks for {PREPROCESS_VERSION!r}; export the engines again, or "
            "install the ois-deploy they were exported with"
        )
    if model.patch < 1 or model.longest < model.patch or model.longest % model.patch:
        raise IncompatibleServer(
            f"the engines are for images of {model.longest} pixels with patches of {model.patch}; "
            "expected a whole number of patches. Export them again"
        )
    if model.coverage_scale < 1:
        raise IncompatibleServer(
            f"the engines want coverage with {model.coverage_scale} cells along a patch; expected "
            "at least 1. Export them again"
        )


class Region(StrEnum):
    """Which part of the image a click decodes.

    AUTO decodes where the mask can change; masks are the same except for rare specks elsewhere.
    """

    FULL = "full"
    AUTO = "auto"

    @classmethod
    def parse(cls, name: str) -> Region:
        """The value called `name`. Raises `InvalidInput`, naming the known ones, for another."""
        try:
            return cls(name)
        except ValueError:
            raise InvalidInput(f"got region = {name!r}; expected one of {', '.join(cls)}") from None


class Answer(StrEnum):
    """Which answer a click gets.

    COARSE is a rough mask to show until the full one is there, which is requested as well. It
    costs the first part of the decoder, which the full answer then does not repeat.
    """

    FULL = "full"
    COARSE = "coarse"

    @classmethod
    def parse(cls, name: str) -> Answer:
        """The value called `name`. Raises `InvalidInput`, naming the known ones, for another."""
        try:
            return cls(name)
        except ValueError:
            raise InvalidInput(f"got answer = {name!r}; expected one of {', '.join(cls)}") from None


@dataclass(frozen=True, slots=True, eq=False)
class ClickRequest:
    """All clicks so far on N objects of one image. P is the largest number of clicks on one.

    digest: `Picture.digest` of an image that was encoded before.
    points: (N, P, 2) float32, (x, y) in pixels of the original image.
    labels: (N, P) int32; 1 positive, 0 negative, -1 no click.
    coverage: (N, s gh, s gw) uint8 of each object's previous mask (see `coverage.py`).
    has_previous: (N) bool; False where there is no previous mask; coverage is ignored there.
    want_depth, want_logits, want_order: optional parts of the reply, see `ClickReply`.
    session: an opaque id for the server's log.
    region: None leaves it to the engines: `full` if logits are wanted, else as they were opened.
    answer: coarse only if `ModelInfo.coarse_answers`, and then without optional parts.
    """

    digest: str
    points: NDArray[np.float32]
    labels: NDArray[np.int32]
    coverage: NDArray[np.uint8]
    has_previous: NDArray[np.bool_]
    want_depth: bool = field(default=False, kw_only=True)
    want_logits: bool = field(default=False, kw_only=True)
    want_order: bool = field(default=False, kw_only=True)
    session: str = field(default="", kw_only=True)
    region: Region | None = field(default=None, kw_only=True)
    answer: Answer = field(default=Answer.FULL, kw_only=True)


@dataclass(frozen=True, slots=True, eq=False)
class ClickReply:
    """The reply for the N objects of a `ClickRequest`, in the same order.

    masks: (N, H, W) uint8 in pixels of the original image, 1 = object.
    coverage: (N, s gh, s gw) uint8 of these masks, for the next click.
    timings_ms: wall time per stage.
    depth: (h, w) float32 in network pixels, 0 near to 1 far; None unless requested.
    logits: (N, h, w) float32 in network pixels, > 0 is object; None unless requested.
    order: (K, h, w) float32 in network pixels, the order maps [paper Eq. 1, 2], 0 = at the
    clicked depth; None unless requested. For each object in turn: one map for all its positive
    clicks, if it has any, then one per negative click.
    model_sha256: of the model that replied; "" when the transport cannot change its model.
    packed: each mask as `pack_mask` packs it, when it arrived in that form; None otherwise.
    answer: a coarse one is to be shown, not kept: its coverage is empty, (N, 0, 0).
    """

    masks: NDArray[np.uint8]
    coverage: NDArray[np.uint8]
    timings_ms: Mapping[str, float]
    depth: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None
    order: NDArray[np.float32] | None = None
    model_sha256: str = ""
    packed: tuple[bytes, ...] | None = field(default=None, kw_only=True, repr=False)
    answer: Answer = field(default=Answer.FULL, kw_only=True)


@dataclass(frozen=True, slots=True)
class EncodeReply:
    """The reply to an image that was sent to be encoded.

    cached: the features were already stored, so nothing was computed.
    timings_ms, model_sha256: as in `ClickReply`.
    """

    digest: str
    cached: bool
    timings_ms: Mapping[str, float]
    model_sha256: str = ""


class Transport(Protocol):
    """Runs the engines, here or on a server. Thread-safe; every error is an `OISError`."""

    def info(self) -> ModelInfo: ...

    def encode(self, picture: Picture) -> EncodeReply:
        """Compute and store the image's features.

        Raises `InvalidImage` if the image cannot be decoded.
        """

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        """Compute the masks of the requested objects.

        picture: the image, whose features are then computed if they are missing. Raises
        `UnknownImage` if they are missing and `picture` is None.
        """

    def close(self) -> None:
        """Release all resources. Closing twice is fine."""


class Cancellation:
    """Cancels one blocking call from another thread. Thread-safe; once set, it stays set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._callbacks: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """Set it, and call every registered callback once."""
        with self._lock:
            self._set.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def then(self, callback: Callable[[], object]) -> None:
        """Register `callback`, or call it at once if already cancelled. It must not block."""
        with self._lock:
            if not self._set.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises `Cancelled` at once if it is set before the time is over."""
        if self._set.wait(seconds):
            self.check()

    def check(self) -> None:
        """Raise `Cancelled` if it is set."""
        if self._set.is_set():
            raise Cancelled("the click was cancelled for a newer one; nothing was changed")


@runtime_checkable
class CancellableTransport(Protocol):
    """A transport whose clicks can be cancelled from another thread."""

    def click_until(
        self, request: ClickRequest, cancellation: Cancellation, picture: Picture | None = None
    ) -> ClickReply:
        """`Transport.click` that raises `Cancelled` as soon as `cancellation` is set."""


@runtime_checkable
class StatelessTransport(Protocol):
    """A transport that can answer an image with clicks without keeping the image's features."""

    def segment(self, request: ClickRequest, picture: Picture) -> ClickReply:
        """`Transport.click` with the picture. `request` wants masks only."""


@runtime_checkable
class AsyncStatelessTransport(Protocol):
    """`StatelessTransport` on an event loop."""

    async def segment(self, request: ClickRequest, picture: Picture) -> ClickReply: ...


class AsyncTransport(Protocol):
    """`Transport` on an event loop. A cancelled call leaves nothing behind."""

    async def info(self) -> ModelInfo: ...

    async def encode(self, picture: Picture) -> EncodeReply: ...

    async def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply: ...

    async def close(self) -> None: ...
