"""A session of `Client` as a contestant: OIS in process, or through a server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from ois_benchmarks.contestants.base import Image, Mask, NotHere, Place
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click
from ois_client.contract.errors import AccessDenied, InvalidInput, ServerUnavailable
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session

#: Where the token of a server is read from, so that no file or process list shows it.
TOKEN_VARIABLE = "OIS_TOKEN"
#: As engines describe themselves; one with int8 layers may name a second one.
_PRECISIONS = ("int8", "fp16", "bf16")


class SessionContestant:
    """served: whether a server answers. resources: closed with the contestant."""

    encodes = True

    def __init__(
        self, client: Client, identity: Identity, resources: ExitStack, *, served: bool
    ) -> None:
        self.served = served
        self._client = client
        self._identity = identity
        self._resources = resources
        self._session: Session | None = None
        self._opened = 0
        self._mark = os.urandom(3)

    @property
    def identity(self) -> Identity:
        """The input size is that of the current image, because nothing is padded."""
        if self._session is None:
            return self._identity
        geometry = self._session.geometry
        size = geometry.network_width, geometry.network_height
        return replace(self._identity, input_size=size)

    @property
    def stages_ms(self) -> Mapping[str, float]:
        """The stages in the reply to the latest click."""
        reply = self._open().last_reply
        return {} if reply is None else reply.timings_ms

    def set_image(self, image: Image) -> None:
        # Change a pixel, because the store would not encode the same image twice.
        self._opened += 1
        image = image.copy()
        image[0, 0] = self._opened & 255, self._opened >> 8 & 255, self._opened >> 16 & 255
        if self.served:  # the server may still have the images of an earlier run
            image[0, -1] = list(self._mark)
        self._session = self._client.open(image)

    def click(self, clicks: Sequence[Click]) -> Mask:
        session = self._open()
        if len(clicks) == 1:
            session.new_object()
        last = clicks[-1]
        return session.click(last.x, last.y, last.positive).view(np.bool_)

    def click_each(self, points: Sequence[Click]) -> Mask:
        session = self._open()
        asked = {session.new_object(): point for point in points}
        masks = session.click_many(asked)
        return np.stack([masks[obj] for obj in asked]).view(np.bool_)

    def cost(self) -> Cost | None:
        """None: a server does not say what its network computes."""
        return None

    def close(self) -> None:
        self._session = None
        self._resources.close()

    def _open(self) -> Session:
        if self._session is None:
            raise InvalidInput("no image is set; call set_image first")
        return self._session


def open_server(place: Place, url: str) -> SessionContestant:
    """Open the server at `url`, with the token in `TOKEN_VARIABLE`, if it needs one.

    Raises `NotHere` if it does not answer or refuses the token, and the other errors of `Client`.
    """
    del place  # nothing runs here but the client
    with ExitStack() as stack:
        try:
            client = Client(url, token=os.environ.get(TOKEN_VARIABLE) or None)
        except (ServerUnavailable, AccessDenied) as error:
            raise NotHere(str(error)) from error
        stack.enter_context(client)
        info = client.info
        identity = Identity(
            label=f"OIS {info.network}, {url}",
            family="ois",
            engine=info.engine,
            precision=next((each for each in _PRECISIONS if each in info.engine), "fp32"),
            source=url,
            weights=info.network if info.trained else "random",
            sha256=info.model_sha256,
            input_size=(info.longest, info.longest),
        )
        return SessionContestant(client, identity, stack.pop_all(), served=True)
