"""64 concurrent sessions on 16 images: every mask equals that of the engines in process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from ois_client import AsyncClient, Client
from ois_runtime.embedded.server import EmbeddedServer
from support.server.players import Player, pixels, play

SESSIONS, IMAGES = 64, 16
#: Several shapes, so that the features of a wrong image cause an error.
SIZES = ((112, 84), (84, 112), (140, 60), (56, 56))


def images(first: int) -> list[np.ndarray]:
    return [pixels(first + n, *SIZES[n % len(SIZES)]) for n in range(IMAGES)]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_session_sees_anothers_mask(
    server: EmbeddedServer, engines: Path, protocol: str
) -> None:
    pictures = images(2000)
    with Client(getattr(server, f"{protocol}_url")) as client, Client(f"local:{engines}") as twin:
        players = [Player(client, twin, pictures[n % IMAGES], seed=n) for n in range(SESSIONS)]
        play(players, clicks=4, threads=16)
        assert sum(player.answered for player in players) == 4 * SESSIONS
        assert len({player.session.mask().tobytes() for player in players}) > SESSIONS / 2


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_async_session_sees_anothers_mask(
    server: EmbeddedServer, engines: Path, protocol: str
) -> None:
    pictures = images(2100 + 100 * (protocol == "http"))
    rng = np.random.default_rng(0)
    clicks = rng.uniform(0, 50, (SESSIONS, 3, 2))

    async def one(client: AsyncClient, n: int) -> np.ndarray:
        session = await client.open(pictures[n % IMAGES])
        for x, y in clicks[n]:
            mask = await session.click(x, y)
        return mask

    async def all_at_once() -> list[np.ndarray]:
        async with AsyncClient(getattr(server, f"{protocol}_url")) as client:
            return await asyncio.gather(*(one(client, n) for n in range(SESSIONS)))

    masks = asyncio.run(all_at_once())
    with Client(f"local:{engines}") as twin:
        for n, mask in enumerate(masks):
            session = twin.open(pictures[n % IMAGES])
            for x, y in clicks[n]:
                expected = session.click(x, y)
            np.testing.assert_array_equal(mask, expected)
