"""The blocking transport to a Triton server: performs the effects of an `Exchange`."""

from __future__ import annotations

from typing import Protocol

from ois_client.contract.errors import Cancelled, InvalidInput
from ois_client.contract.images import Picture
from ois_client.contract.steps import run
from ois_client.contract.transport import (
    Cancellation,
    ClickReply,
    ClickRequest,
    EncodeReply,
    ModelInfo,
)
from ois_client.transports.address import Address
from ois_client.transports.exchange import (
    Effect,
    Exchange,
    Infer,
    Pause,
    Share,
    Steps,
    T,
    TritonOptions,
    Unshare,
)
from ois_client.wire import Tensors


class BlockingIO(Protocol):
    """The I/O of one protocol. Thread-safe; every error is an `OISError`."""

    def infer(self, infer: Infer, cancellation: Cancellation) -> Tensors: ...

    def share(self, share: Share) -> None: ...

    def unshare(self, unshare: Unshare) -> None: ...

    def close(self) -> None:
        """Cancel the calls in progress, if the protocol can. Closing twice is fine."""


def open_transport(url: str, **options: object) -> TritonTransport:
    """Return the transport to the server at `url`. Sends nothing yet.

    url: see `Address`. options: see `TritonOptions`. Raises `InvalidInput` for a wrong address or
    option.
    """
    address = Address.parse(url)
    chosen = TritonOptions.of(address, options)
    io: BlockingIO
    if address.scheme.startswith("grpc"):
        from ois_client.transports.grpc import BlockingGrpc

        io = BlockingGrpc(address, chosen)
    else:
        from ois_client.transports.http import BlockingHttp

        io = BlockingHttp(address, chosen)
    return TritonTransport(Exchange(address, chosen), io)


class TritonTransport:
    """A `CancellableTransport` to a server. Thread-safe."""

    def __init__(self, exchange: Exchange, io: BlockingIO) -> None:
        self._exchange = exchange
        self._io = io
        self._closed = False

    def info(self) -> ModelInfo:
        return self._run(self._exchange.info())

    def encode(self, picture: Picture) -> EncodeReply:
        return self._run(self._exchange.encode(picture))

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        return self._run(self._exchange.click(request, picture))

    def segment(self, request: ClickRequest, picture: Picture) -> ClickReply:
        return self._run(self._exchange.segment(request, picture))

    def click_until(
        self, request: ClickRequest, cancellation: Cancellation, picture: Picture | None = None
    ) -> ClickReply:
        """`click` that raises `Cancelled` once `cancellation` is set."""
        return self._run(self._exchange.click(request, picture), cancellation)

    def close(self) -> None:
        self._closed = True
        self._io.close()

    def _run(self, steps: Steps[T], cancellation: Cancellation | None = None) -> T:
        if self._closed:
            raise InvalidInput("this client is closed; open a new one")
        cancellation = cancellation or Cancellation()
        return run(steps, lambda effect: self._perform(effect, cancellation))

    def _perform(self, effect: Effect, cancellation: Cancellation) -> Tensors | None:
        if self._closed:
            raise Cancelled("the client was closed before the answer came")
        match effect:
            case Infer():
                cancellation.check()
                tensors = self._io.infer(effect, cancellation)
                cancellation.check()  # over HTTP the answer comes even so
                return tensors
            case Pause():
                cancellation.sleep(effect.seconds)
            case Share():
                self._io.share(effect)
            case Unshare():
                self._io.unshare(effect)
        return None
