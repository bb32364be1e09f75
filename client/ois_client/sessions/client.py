"""The client: connects to an address and opens images for clicking."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.images import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image
from ois_client.contract.transport import ModelInfo, Transport, check_compatible
from ois_client.sessions.session import Session
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

    def open(self, image: ImageSource, *, encode: bool = True) -> Session:
        """Open a session on one image.

        image: see `load_image`.
        encode: send and encode the image now, which also raises its errors here. With False, the
        first click does that.

        Raises `InvalidImage` and the errors of the transport.
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
        """Close all connections. Closing twice is fine.

        gRPC calls in progress raise `Cancelled`. Calls of other transports may still complete.
        """
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
