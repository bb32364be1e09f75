"""The images of a soak run, the clicks on each, and the masks that the engines give in process.

An image is a crop of a photograph, made again from its number whenever somebody visits it, so that
thousands of them need no memory. The masks come from the same engines in a process of their own,
whose memory is not measured and whose work does not delay the clients.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_benchmarks.load.pictures import shipped_photographs
from ois_benchmarks.soak.plan import LONGEST_VISIT, SoakPlan
from ois_client import Client
from ois_client.contract.masks import pack_mask

#: Before this click of a visit, a second object is begun.
SECOND_OBJECT_AT = 5
_SIZES = ((320, 240), (240, 320), (288, 288), (400, 225))
_STORE_BYTES = 16 * 2**20


class Scripts:
    """Images and clicks by number, both from the seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._photographs = [Image.open(path).convert("RGB") for path in shipped_photographs()]

    def image(self, number: int) -> bytes:
        """The JPEG file of an image."""
        generator = np.random.default_rng([self._seed, 2, number])
        photograph = self._photographs[number % len(self._photographs)]
        width, height = self.size(number)
        scale = generator.uniform(0.4, 1) * min(
            photograph.width / width, photograph.height / height
        )
        left = generator.uniform(0, photograph.width - scale * width)
        top = generator.uniform(0, photograph.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        file = io.BytesIO()
        photograph.resize((width, height), box=box).save(file, "JPEG", quality=90)
        return file.getvalue()

    def size(self, number: int) -> tuple[int, int]:
        """(width, height) of an image."""
        return _SIZES[number // len(self._photographs) % len(_SIZES)]

    def clicks(self, number: int) -> list[tuple[float, float, bool]]:
        """(x, y, positive) of the clicks of the longest visit."""
        generator = np.random.default_rng([self._seed, 3, number])
        places = generator.uniform(0.1, 0.9, (LONGEST_VISIT, 2)) * self.size(number)
        positive = generator.uniform(size=LONGEST_VISIT) < 0.7
        positive[[0, SECOND_OBJECT_AT]] = True
        return [
            (*place, sign) for place, sign in zip(places.tolist(), positive.tolist(), strict=True)
        ]


def digest_of(mask: NDArray[np.uint8]) -> int:
    """64 bits that stand for a mask (H, W)."""
    digest = hashlib.blake2b(pack_mask(mask), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Twin:
    """The same engines in a process of their own. Use it as a context manager, on one event loop.

    Keeps what it has computed in an array of fixed size, so that it does not look like a leak.
    """

    def __init__(self, engines: Path, plan: SoakPlan) -> None:
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open,
            initargs=(str(engines), plan.longest, plan.seed),
        )
        self._known = np.zeros((plan.images, LONGEST_VISIT), np.uint64)
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._computed = np.zeros(plan.images, bool)

    async def model(self) -> dict[str, Any]:
        """Network and digest of the engines."""
        return await asyncio.wrap_future(self._pool.submit(_model))

    async def digests(self, number: int) -> list[int]:
        """`digest_of` the mask after each click of the longest visit to an image."""
        if not self._computed[number]:
            if number not in self._asked:
                self._asked[number] = asyncio.ensure_future(self._compute(number))
            await self._asked[number]
        return [int(one) for one in self._known[number]]

    async def _compute(self, number: int) -> None:
        try:
            self._known[number] = await asyncio.wrap_future(self._pool.submit(_play, number))
            self._computed[number] = True
        finally:
            del self._asked[number]

    def __enter__(self) -> Twin:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


# -- in the other process ------------------------------------------------------------------------

_opened: tuple[Client, Scripts] | None = None


def _open(engines: str, longest: int | None, seed: int) -> None:
    global _opened
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for us
    options: dict[str, Any] = {} if longest is None else {"longest": longest}
    client = Client(f"local:{engines}", cache_bytes=_STORE_BYTES, **options)
    _opened = client, Scripts(seed)


def _parts() -> tuple[Client, Scripts]:
    if _opened is None:
        raise RuntimeError("the pool did not run its initializer")
    return _opened


def _model() -> dict[str, Any]:
    info = _parts()[0].info
    return {"network": info.network, "sha256": info.model_sha256, "longest": info.longest}


def _play(number: int) -> list[int]:
    client, scripts = _parts()
    session = client.open(scripts.image(number))
    found = []
    for count, place in enumerate(scripts.clicks(number)):
        if count == SECOND_OBJECT_AT:
            session.new_object()
        found.append(digest_of(session.click(*place)))
    return found
