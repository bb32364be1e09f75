"""A contestant with the interface of `Client`, so that `ois bench quality` can evaluate it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.contestants.base import Contestant, Place
from ois_benchmarks.contestants.code import failure_of
from ois_benchmarks.contestants.registry import open_contestant
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, OISError
from ois_client.contract.geometry import PREPROCESS_VERSION
from ois_client.contract.images import ImageSource, load_image
from ois_client.contract.transport import ModelInfo

PEER = "peer:"


class PeerClient:
    """The part of `Client` that the quality benchmark needs: `info`, `open` and `close`.

    The weights count as trained unless they are random. Preprocessing is the peer's own.
    """

    def __init__(
        self,
        name: str,
        *,
        checkout: Path | None = None,
        weights: Path | None = None,
        threads: int = 1,
    ) -> None:
        """Raises `NotHere` if something is missing, `EngineError` if the peer's own code fails, and
        what its adapter raises.
        """
        self._scratch = tempfile.TemporaryDirectory(prefix="ois-peer-")
        place = Place(
            threads=threads,
            scratch=Path(self._scratch.name),
            checkout=checkout,
            weights=weights,
        )
        try:
            with _typed_errors(name):
                self._contestant: Contestant = open_contestant(name, place)
        except BaseException:
            self._scratch.cleanup()
            raise
        who = self._contestant.identity
        self.info = ModelInfo(
            network=who.label,
            longest=max(who.input_size),
            patch=1,
            preprocess_version=PREPROCESS_VERSION,
            model_sha256=who.sha256,
            trained=who.weights != "random",
            engine=who.engine,
        )

    def open(self, image: ImageSource) -> PeerSession:
        """Open a session for one object. The peer holds one image at a time.

        Raises `EngineError` if the peer's code fails.
        """
        pixels = load_image(image).pixels()
        with _typed_errors(self.info.network):
            self._contestant.set_image(pixels)
        return PeerSession(self._contestant)

    def close(self) -> None:
        self._contestant.close()
        self._scratch.cleanup()

    def __enter__(self) -> PeerClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class PeerSession:
    """The clicks on one object."""

    #: Always None, because a peer sends no replies.
    last_reply: Any = None

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._clicks: list[Click] = []

    def click(self, x: float, y: float, positive: bool = True) -> NDArray[np.uint8]:
        """Add a click. Returns the mask (H, W) uint8, 1 = object.

        Raises `EngineError` if the peer's code fails.
        """
        self._clicks.append(Click(x, y, positive))
        with _typed_errors(self._contestant.identity.label):
            return self._contestant.click(self._clicks).astype(np.uint8)


@contextmanager
def _typed_errors(who: str) -> Iterator[None]:
    """A peer's code may raise anything. A run counts it as a failed click and goes on."""
    try:
        yield
    except OISError:
        raise
    except Exception as error:
        raise EngineError(f"the code of {who} failed: {failure_of(error)}") from error
