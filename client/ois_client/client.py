"""The way in: an address, or a transport, and the images opened through it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ois_client.errors import EngineError, IncompatibleServer, InvalidInput
from ois_client.geometry import PREPROCESS_VERSION
from ois_client.images import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image
from ois_client.session import Session
from ois_client.transport import ModelInfo, Transport

TRANSPORTS = "ois_client.transports"  # entry-point group: URL scheme -> open(address, **options)

#: scheme -> the extra of `ois-deploy` that brings what it needs
EXTRAS = {"local": "cpu"}


class Client:
    """Opens images for clicking.

        with Client("local:") as client:
            session = client.open("photo.jpg")
            mask = session.click(512, 300)

    url: `scheme:address`; the scheme picks the transport (`local:` runs the engines of the
    default folder in this process, `local:PATH` those of another). Or a `Transport`, which
    the client then closes. `options` go to the transport.

    Raises `InvalidInput` for an unknown scheme, `EngineError` when the transport's packages are
    not installed, `IncompatibleServer` when the engines were built for another preprocessing.
    """

    def __init__(
        self, url: str | Transport, *, limits: ImageLimits = DEFAULT_LIMITS, **options: Any
    ) -> None:
        if isinstance(url, str):
            transport = _connect(url, options)
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
            self._info = transport.info()
            _check_compatible(self._info)
        except BaseException:
            transport.close()
            raise

    @property
    def info(self) -> ModelInfo:
        """The network behind the address."""
        return self._info

    def open(self, image: ImageSource, *, encode: bool = True) -> Session:
        """A session on one image (see `load_image` for what counts as one).

        The image is sent and encoded at once, so that its errors appear here; with
        `encode=False` the first click does it. Raises `InvalidImage` and what the transport
        raises.
        """
        return Session(self._transport, load_image(image, self._limits), encode=encode)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _connect(url: str, options: dict[str, Any]) -> Transport:
    from importlib.metadata import entry_points

    scheme, colon, address = url.partition(":")
    known = {point.name: point for point in entry_points(group=TRANSPORTS)}
    if not colon or scheme not in known:
        extras = ", ".join(
            f"{name}: needs pip install 'ois-deploy[{extra}]'" for name, extra in EXTRAS.items()
        )
        raise InvalidInput(
            f"got the address {url!r}; expected scheme:address with one of the schemes "
            f"{sorted(known | EXTRAS)} ({extras})"
        )
    try:
        transport: Transport = known[scheme].load()(address, **options)
    except ImportError as error:
        raise EngineError(
            f"the address {url!r} needs a package that is not installed ({error}); run "
            f"pip install 'ois-deploy[{EXTRAS.get(scheme, 'all')}]'"
        ) from error
    return transport


def _check_compatible(info: ModelInfo) -> None:
    if info.preprocess_version != PREPROCESS_VERSION:
        raise IncompatibleServer(
            f"the engines were built for the preprocessing {info.preprocess_version!r}, this "
            f"client sends clicks for {PREPROCESS_VERSION!r}; export the engines again, or "
            "install the ois-deploy they were exported with"
        )
