"""Sessions for callers that send all clicks on an object every time, as annotation tools do."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.images import ImageSource
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session


def replay(session: Session, clicks: Sequence[Click], obj: int | None = None) -> NDArray[np.uint8]:
    """Make an object have exactly these clicks -> its mask, (H, W) uint8, 1 = object.

    Undoes the session's clicks back to the common beginning, then clicks the rest one by one. So
    the mask is the same as if all clicks were made one after another, and one click more than last
    time costs one click. Raises what `Session.click` raises; a wrong click raises before anything
    is undone or sent.
    """
    pack_clicks([clicks], session.geometry.width, session.geometry.height)
    wanted = tuple(clicks)
    obj = session.objects[-1] if obj is None else obj
    while wanted[: len(done := session.clicks(obj))] != done:
        session.undo(obj)
    for click in wanted[len(done) :]:
        session.click(click.x, click.y, click.positive, obj)
    return session.mask(obj)


def in_order(
    positive: Sequence[Click], negative: Sequence[Click], before: Sequence[Click]
) -> list[Click]:
    """Join the two lists of clicks of a tool that sends them without their order.

    before: the clicks of the image's last request. As long as the lists begin with them, their
    order is kept. Of the other clicks, the positive ones come first.
    """
    waiting = {True: list(positive), False: list(negative)}
    ordered: list[Click] = []
    for click in before:
        same = waiting[click.positive]
        if not same or same[0] != click:
            break
        ordered.append(same.pop(0))
    return ordered + waiting[True] + waiting[False]


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None


class RecentSessions:
    """A cache of the sessions of recently used images. Thread-safe.

    Without its session, `replay` repeats the earlier clicks on an image. The image is encoded
    again only if the server has dropped it.
    """

    def __init__(self, client: Client, most: int = 16) -> None:
        """most: the largest number of images to hold. Raises `InvalidInput` if it is below 1."""
        if most < 1:
            raise InvalidInput(f"got most={most}; expected at least 1 image to hold")
        self._client = client
        self._most = most
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._guard = threading.Lock()

    @contextmanager
    def session(self, key: str, load: Callable[[], ImageSource]) -> Iterator[Session]:
        """The session of the image with the key `key`, for exclusive use in a `with` block.

        load: returns the image; called if there is no session yet. Waits while another thread
        uses the same image. If the block raises `IncompatibleServer`, because the server's model
        has changed, the image is opened again the next time.
        """
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        with entry.lock:
            try:
                if entry.session is None:
                    entry.session = self._client.open(load())
                yield entry.session
            except IncompatibleServer:
                entry.session = None
                raise

    def __len__(self) -> int:
        """The number of images held."""
        return len(self._entries)
