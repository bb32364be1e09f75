"""The way in: an address, or a transport, and the images opened through it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.images import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image
from ois_client.contract.transport import ModelInfo, Transport, check_compatible
from ois_client.sessions.session import Session
from ois_client.transports.address import connect


class Client:
    """Opens images for clicking. Thread-safe.

        with Client("grpc://host:8001") as client:
            session = client.open("photo.jpg")
            mask = session.click(512, 300)

    url: `scheme:address`; the scheme picks the transport.
    - `grpc://host:8001`, `http://host:8000`: a server; `grpcs://` and `https://` the same
      through TLS. Options: see `TritonOptions`.
    - `local:` runs the engines of the default folder in this process, `local:PATH` those of
      another, `local:cuda` the network on a GPU. Options, as keywords or behind `?`: see
      `ois_runtime.engines.local`.
    Or a `Transport`, which the client then closes, and no options.

    Raises `InvalidInput` for an unknown scheme or option, `EngineError` when the transport's
    packages are not installed, `ServerUnavailable` and `AccessDenied` when a server does not
    answer or wants a token, `IncompatibleServer` when it was built for another contract.
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

    def open(self, image: ImageSource, *, encode: bool = True) -> Session:
        """A session on one image (see `load_image` for what counts as one).

        The image is sent and encoded at once, so that its errors appear here; with
        `encode=False` the first click does it. Raises `InvalidImage` and what the transport
        raises.
        """
        picture = load_image(image, self._limits)
        if not encode:
            # No reply tells whether the server still runs the same model, so ask for it.
            return Session(self._transport, picture, encode=False, info=self._ask())
        known = self._latest
        try:
            return Session(self._transport, picture, info=known)
        except IncompatibleServer:
            # A new session can use the other model of a server that was restarted.
            now = self._ask()
            if now.model_sha256 == known.model_sha256:
                raise
            return Session(self._transport, picture, info=now)

    def close(self) -> None:
        """Let go of all connections; twice is fine. gRPC calls under way raise `Cancelled`; of
        other transports, the answer that is on its way may still come."""
        self._transport.close()

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
