"""The client: connects to an address and opens images for clicking."""

from __future__ import annotations

from html import escape
from types import TracebackType
from typing import Any

from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.images import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image
from ois_client.contract.transport import (
    ClickReply,
    ModelInfo,
    StatelessTransport,
    Transport,
    check_compatible,
)
from ois_client.sessions.session import Session
from ois_client.sessions.stateless import (
    Clicks,
    Coverages,
    check_first_round,
    is_of_another_model,
    stateless_request,
)
from ois_client.transports.connect import connect


class Client:
    """Opens images for clicking. Thread-safe.

        with Client("grpc://host:8001") as client:
            session = client.open("photo.jpg")
            mask = session.click(512, 300)

    url: `scheme:address`. The scheme selects the transport.
    - `grpc://host:8001` and `http://host:8000` are servers, `grpcs://` and `https://` servers
      with TLS. Options: see `TritonOptions`.
    - `local:` runs the engines of the default folder in this process, `local:PATH` those of
      another folder, `local:cuda` the network on a GPU. Options, as keywords or after `?`: see
      `ois_runtime.engines.local`.
    Instead of an address it can be a `Transport`, which the client closes. There are no options
    then.

    limits: limits of the images that `open` accepts.

    Raises `InvalidInput` for an unknown scheme or option, `EngineError` if a package of the
    transport is not installed, `ServerUnavailable` if the server does not answer, `AccessDenied`
    if it requires a token, and `IncompatibleServer` if it was built for another contract.
    """

    def __init__(
        self, url: str | Transport, *, limits: ImageLimits = DEFAULT_LIMITS, **options: Any
    ) -> None:
        if isinstance(url, str):
            transport = connect(url, options)
        elif options:
            raise InvalidInput(
                f"got the options {sorted(options)} with a transport that is already open; "
                "options go with an address"
            )
        else:
            transport = url
        self._transport = transport
        self._limits = limits
        try:
            self._info = self._ask()
        except BaseException:
            transport.close()
            raise

    @property
    def info(self) -> ModelInfo:
        """The model behind the address at the time this client was created."""
        return self._info

    def open(self, image: ImageSource, *, encode: bool = True, zoom: bool = False) -> Session:
        """Open a session on one image.

        image: see `load_image`.
        encode: send and encode the image now, which also raises its errors here. With False, the
        first click does that.
        zoom: from the fourth click on, `Session.click` on an object that fills little of the image
        is answered in a window around it, which the network sees larger. Masks of small objects
        get better; the first click in a window also encodes it (see `zoom.py`). Clicks that
        request depth, logits or order, and `click_many` on several objects, do not zoom.

        Raises `InvalidImage` and the errors of the transport.
        """
        picture = load_image(image, self._limits)
        if not encode:
            # No reply tells whether the server still runs the same model, so ask for it.
            return Session(self._transport, picture, encode=False, info=self._ask(), zoom=zoom)
        known = self._latest
        try:
            return Session(self._transport, picture, info=known, zoom=zoom)
        except IncompatibleServer:
            # A new session can use the other model of a server that was restarted.
            now = self._ask()
            if now.model_sha256 == known.model_sha256:
                raise
            return Session(self._transport, picture, info=now, zoom=zoom)

    def segment(
        self, image: ImageSource, clicks: Clicks, *, coverage: Coverages | None = None
    ) -> ClickReply:
        """Segment an image once, in one request, without a session.

        Use it where every image needs one answer. For a person who clicks on one image again and
        again, `open` is faster: the server then keeps the image's features, and here every call
        encodes the image. A server uses the ensemble `ois_oneshot`; if it does not have it (`ois
        serve --device`), `ois_segment` answers the same request.

        image: see `load_image`.
        clicks: all clicks on each object, a list per object; or a list of clicks on one object.
        They are applied together, in one round: a session that makes the same clicks one after
        another refines the mask after each of them.
        coverage: of each object's previous mask, (gh, gw) uint8 or None, to continue an earlier
        round: `coverage` of its reply, or of a session. All earlier clicks are sent again.

        Returns the masks (N, H, W) uint8, 1 = object, and their coverage. Raises `InvalidImage`,
        `InvalidClick` or `TooManyClicks` before anything is sent, `InvalidInput` if the coverage
        does not fit the image or the clicks, and the errors of the transport.
        """
        picture = load_image(image, self._limits)
        known = self._latest
        request = stateless_request(picture, clicks, coverage, known)
        transport = self._transport
        if isinstance(transport, StatelessTransport):
            reply = transport.segment(request, picture)
        else:
            reply = transport.click(request, picture)
        if is_of_another_model(reply, known):
            self._ask()  # so that the next round can refine this reply's masks
            check_first_round(request)
        return reply

    def close(self) -> None:
        """Close all connections. Closing twice is fine.

        gRPC calls in progress raise `Cancelled`. Calls of other transports may still complete.
        """
        self._transport.close()

    def _repr_html_(self) -> str:
        """What notebooks show: the network, where it runs, and whether it is trained."""
        info = self._info
        trained = "trained" if info.trained else "<b>untrained: masks mean nothing</b>"
        return (
            f"<b>{escape(info.network)}</b>, {info.longest} px, {escape(info.engine)}, {trained} "
            f"<code>{escape(info.model_sha256[:12])}</code>"
        )

    def _ask(self) -> ModelInfo:
        info = self._transport.info()
        check_compatible(info)
        self._latest = info
        return info

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
