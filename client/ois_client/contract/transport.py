"""What a `Session` needs of whatever runs the engines: four calls and their value objects.

A transport keeps no session. It may forget an image at any time and then says so with
`UnknownImage`; the session repeats the click together with the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.cancellation import Cancellation
from ois_client.contract.images import Picture


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What runs behind a transport; enough to build the `Geometry` of any image."""

    network: str
    #: longest side of the network's input in pixels
    longest: int
    #: side of a ViT patch in network pixels
    patch: int
    #: must equal `geometry.PREPROCESS_VERSION`
    preprocess_version: str
    model_sha256: str
    #: False for random weights: masks mean nothing, timings do
    trained: bool
    engine: str


@dataclass(frozen=True, slots=True, eq=False)
class ClickRequest:
    """All clicks so far on N objects of one image. P = most clicks on one of them.

    digest: `Picture.digest` of an image that was encoded before.
    points: (N, P, 2) float32, (x, y) in pixels of the original image.
    labels: (N, P) int32; 1 positive, 0 negative, -1 no click.
    coverage: (N, gh, gw) uint8 of each object's previous mask (see `coverage.py`).
    has_previous: (N) bool; False where there is no previous mask and coverage means nothing.
    want_...: what else the reply should hold, see `ClickReply`.
    session: an opaque id for a server's log.
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


@dataclass(frozen=True, slots=True, eq=False)
class ClickReply:
    """The answer for the N objects of a `ClickRequest`, in its order.

    masks: (N, H, W) uint8 in the original image, 1 = object.
    coverage: (N, gh, gw) uint8 of these masks, for the next click.
    timings_ms: wall time by stage.
    depth: (h, w) float32 in network pixels, near 0 and far 1; None unless asked for.
    logits: (N, h, w) float32 in network pixels, > 0 is object; None unless asked for.
    order: (K, h, w) float32 in network pixels, the order maps [paper Eq. 1, 2], 0 = at the
    clicked depth; None unless asked for. Object after object: one map for all its positive
    clicks, if it has any, then one for each negative click.
    model_sha256: of the model that answered; "" when the transport cannot change its model.
    """

    masks: NDArray[np.uint8]
    coverage: NDArray[np.uint8]
    timings_ms: Mapping[str, float]
    depth: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None
    order: NDArray[np.float32] | None = None
    model_sha256: str = ""


@dataclass(frozen=True, slots=True)
class EncodeReply:
    """cached: the features were there already and nothing was computed.

    model_sha256: as in `ClickReply`.
    """

    digest: str
    cached: bool
    timings_ms: Mapping[str, float]
    model_sha256: str = ""


class Transport(Protocol):
    """Safe to call from many threads. Every error is of the `OISError` tree."""

    def info(self) -> ModelInfo: ...

    def encode(self, picture: Picture) -> EncodeReply:
        """Compute and keep the image's features. Raises `InvalidImage` for what cannot be
        decoded."""

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        """With the image itself as `picture`, its features are computed where they are missing.

        Raises `UnknownImage` when they are not, or no longer, there and `picture` is None.
        """

    def close(self) -> None:
        """Let go of everything held; twice is fine."""


@runtime_checkable
class CancellableTransport(Protocol):
    """A transport whose clicks can be given up from another thread."""

    def click_until(
        self, request: ClickRequest, cancellation: Cancellation, picture: Picture | None = None
    ) -> ClickReply:
        """`Transport.click`; raises `Cancelled` once `cancellation` is set."""


class AsyncTransport(Protocol):
    """The same calls on an event loop. A cancelled call leaves nothing behind."""

    async def info(self) -> ModelInfo: ...

    async def encode(self, picture: Picture) -> EncodeReply: ...

    async def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply: ...

    async def close(self) -> None: ...
