"""The conversation with a server, without any I/O: messages, retries and replies.

Each operation is a generator that yields effects (`Infer`, `Pause`, ...) and is sent their
results, or thrown their errors. `blocking.py` performs the effects with threads and
`event_loop.py` with asyncio, so both transports behave alike.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ois_client.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
    TooManyClicks,
)
from ois_client.contract.images import Picture
from ois_client.contract.masks import MaskFormat
from ois_client.contract.transport import Answer, ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_client.transports.address import Address
from ois_client.transports.failures import error_for
from ois_client.transports.local_token import local_token
from ois_client.transports.settings import TLS, Retries, Timeouts
from ois_client.transports.shared_memory import SharedBytes
from ois_client.wire import (
    DIGEST_HEADER,
    MODEL,
    Message,
    Tensors,
    click_message,
    encode_message,
    info_message,
    oneshot_message,
    read_click_reply,
    read_encode_reply,
    read_info,
)

#: Safe to retry: the server did nothing, or only filled its cache.
RETRYABLE = (ServerUnavailable, ServerOverloaded)

#: Failures that sending the picture over the network would not avoid.
_NOT_ABOUT_SHARING = (
    *RETRYABLE,
    DeadlineExceeded,
    Cancelled,
    InvalidImage,
    InvalidClick,
    TooManyClicks,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonOptions:
    """The options of a connection to a server.

    token: sent with every request; the value of the server's `--token`. None: a server of this
    user on this machine is sent its own token (`transports.local_token`), others get none.
    tls: only with `grpcs:` and `https:`. None: verify with the certificates the system trusts.
    mask_format: encoding of the masks in replies. PNG and COCO RLE are smaller than packed bits,
    which helps on slow links, but take both sides more time.
    shared_memory: pass pictures to a server on this machine through shared memory. The server
    must run with `ois serve --allow-client-shm`; the containers never allow it. If the server
    refuses, pictures are sent over the network.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: Retries = field(default_factory=Retries)
    tls: TLS | None = None
    token: str | None = field(default=None, repr=False)
    mask_format: MaskFormat = MaskFormat.PACKED
    shared_memory: bool = False

    def __post_init__(self) -> None:
        for name, kind in (
            ("timeouts", Timeouts),
            ("retries", Retries),
            ("tls", TLS | None),
            ("token", str | None),
            ("mask_format", MaskFormat),
            ("shared_memory", bool),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise InvalidInput(f"got {name} of type {type(value).__name__}; expected {kind}")
        token = self.token
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise InvalidInput(
                "got a token that does not fit in a header; expected printable ASCII, not empty"
            )

    def token_for(self, address: Address) -> str | None:
        """The token to send now. It can change when a server of this machine is started again."""
        return local_token(address) if self.token is None else self.token

    @classmethod
    def of(cls, address: Address, options: Mapping[str, Any]) -> TritonOptions:
        """Raises `InvalidInput` for an unknown option, or one that does not fit the address."""
        names = [one.name for one in fields(cls)]
        unknown = sorted(options.keys() - set(names))
        if unknown:
            raise InvalidInput(
                f"got the unknown option {unknown[0]!r}; expected for {address.scheme}: {names}"
            )
        made = cls(**options)
        if made.tls is not None and not address.secure:
            raise InvalidInput(f"got tls for {address}; expected {address.scheme}s://")
        return made


# -- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Infer:
    """Send the message and return the tensors of the reply.

    timeout_s: for this attempt. within_s: for all attempts; error messages show it. shared: the
    tensors that are in shared memory, by name.
    """

    message: Message
    headers: Mapping[str, str]
    timeout_s: float
    within_s: float
    shared: Mapping[str, SharedBytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """Make the server map a region of shared memory."""

    memory: SharedBytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Unshare:
    """Make the server unmap a region of shared memory."""

    region: str
    timeout_s: float


Effect = Infer | Pause | Share | Unshare
T = TypeVar("T")
Steps = Generator[Effect, Any, T]


# -- operations ---------------------------------------------------------------------------------


class Exchange:
    """The operations of one client. Thread-safe: its only state is what it knows of the server."""

    def __init__(self, address: Address, options: TritonOptions) -> None:
        self._address = address
        self._options = options
        self._oneshot = False  # whether the server has `ois_oneshot`, as last described by it
        self._sharing = options.shared_memory
        self._abandoned: list[str] = []  # regions that cancelled calls left mapped on the server

    def info(self) -> Steps[ModelInfo]:
        within_s = self._options.timeouts.connect_s
        try:
            tensors = yield from self._send(info_message(), {}, within_s)
        except DeadlineExceeded as error:
            raise ServerUnavailable(
                f"no answer from {self._address} within {within_s:g} s. Start a server with "
                "`ois serve`, or check the address"
            ) from error
        described = read_info(tensors)
        self._oneshot = described.oneshot
        return described.model

    def encode(self, picture: Picture) -> Steps[EncodeReply]:
        message = encode_message(picture)
        within_s = self._options.timeouts.encode_s
        tensors = yield from self._send_picture(picture, message, within_s)
        return read_encode_reply(tensors, picture.digest)

    def click(self, request: ClickRequest, picture: Picture | None = None) -> Steps[ClickReply]:
        form = self._options.mask_format
        message = click_message(request, picture=picture, mask_format=form)
        timeouts = self._options.timeouts
        if picture is None:
            headers = {DIGEST_HEADER: request.digest}
            once = request.answer is Answer.COARSE  # the full answer would be there before
            tensors = yield from self._send(message, headers, timeouts.click_s, once=once)
        else:
            within_s = timeouts.encode_s + timeouts.click_s
            tensors = yield from self._send_picture(picture, message, within_s)
        return read_click_reply(tensors, request, mask_format=form)

    def segment(self, request: ClickRequest, picture: Picture) -> Steps[ClickReply]:
        """One request with image and clicks, to `ois_oneshot` if the server has it.

        Other servers (`ois serve --device`, and earlier releases) answer it with `ois_segment`,
        which also keeps the features.
        """
        if not self._oneshot:
            return (yield from self.click(request, picture))
        form = self._options.mask_format
        message = oneshot_message(request, picture, mask_format=form)
        within_s = self._options.timeouts.encode_s + self._options.timeouts.click_s
        tensors = yield from self._send_picture(picture, message, within_s)
        return read_click_reply(tensors, request, mask_format=form)

    def _send_picture(self, picture: Picture, message: Message, within_s: float) -> Steps[Tensors]:
        """Send `message`, which contains `picture`.

        Uses shared memory if the options ask for it, and the network if the server refuses or
        cannot find the region.
        """
        # Without the header a load balancer spreads the requests: `ois_oneshot` keeps no features.
        headers = {DIGEST_HEADER: picture.digest} if message.model == MODEL else {}
        if self._sharing:
            try:
                return (yield from self._send_shared(picture, message, headers, within_s))
            except _NOT_ABOUT_SHARING:
                raise
            except OISError:
                self._sharing = False  # the next attempt would fail in the same way
        return (yield from self._send(message, headers, within_s))

    def _send_shared(
        self, picture: Picture, message: Message, headers: Mapping[str, str], within_s: float
    ) -> Steps[Tensors]:
        timeout_s = self._options.timeouts.connect_s
        while self._abandoned:
            yield from self._unshare(self._abandoned.pop())
        with SharedBytes(picture.data) as memory:
            yield Share(memory, timeout_s)
            shared = {"IMAGE": memory}
            try:
                tensors = yield from self._send(message, headers, within_s, shared=shared)
            except OISError:
                yield from self._unshare(memory.region)
                raise
            except BaseException:  # cancelled: no further request can be sent now
                self._abandoned.append(memory.region)
                raise
            yield from self._unshare(memory.region)
            return tensors

    def _unshare(self, region: str) -> Steps[None]:
        with suppress(OISError):  # the server is gone, and its mapping with it
            yield Unshare(region, self._options.timeouts.connect_s)

    def _send(
        self,
        message: Message,
        headers: Mapping[str, str],
        within_s: float,
        *,
        shared: Mapping[str, SharedBytes] | None = None,
        once: bool = False,
    ) -> Steps[Tensors]:
        """once: without retries."""
        deadline = time.monotonic() + within_s
        pauses_s: Iterator[float] = iter(()) if once else self._options.retries.pauses_s()
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:  # with a timeout of 0 some libraries would still send
                raise error_for("DEADLINE_EXCEEDED", "", url=str(self._address), timeout_s=within_s)
            try:
                tensors: Tensors = yield Infer(message, headers, left_s, within_s, shared or {})
                return tensors
            except RETRYABLE:
                pause_s = next(pauses_s, None)
                if pause_s is None or time.monotonic() + pause_s >= deadline:
                    raise
            yield Pause(pause_s)
