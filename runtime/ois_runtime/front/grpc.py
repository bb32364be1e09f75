"""gRPC in front of Triton: the calls of a client, uncompressed, each message read and checked.

A deadline stays here: one that ends as Triton answers can crash it. When it is over, or the client
is gone, the call to Triton is cancelled, which is safe.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from ois_client.contract.errors import InvalidInput, OISError, ServerUnavailable
from ois_client.wire import TOKEN_HEADER, error_text, triton_code
from ois_runtime.edge import rules
from ois_runtime.front.requests import check_region, checked_message
from ois_runtime.front.settings import FrontSettings
from ois_runtime.front.work import NO_TOKEN, NOT_READY, Work

_SERVICE = "/inference.GRPCInferenceService/"
_HEALTH = re.compile(rules.GRPC_HEALTH)
_DESCRIPTION = re.compile(rf"({rules.GRPC_DESCRIPTION})|({_SERVICE}ModelStatistics)")
_INFER = re.compile(rules.GRPC_INFER)
_SHARED = {
    f"{_SERVICE}SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest,
    f"{_SERVICE}SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest,
}
_NAMED = (
    service_pb2.ModelReadyRequest,
    service_pb2.ModelMetadataRequest,
    service_pb2.ModelConfigRequest,
    service_pb2.ModelStatisticsRequest,
)
_OF_NAME = {f"{_SERVICE}{kind.__name__.removesuffix('Request')}": kind for kind in _NAMED}
_NAME, _VERSION = re.compile(r"[a-z0-9_]{0,64}"), re.compile(r"[0-9]{0,9}")
#: Triton's own key for a token.
_TRITONS_TOKEN = f"triton-grpc-protocol-{TOKEN_HEADER}"
_MAX_CALLS = 1024

Metadata = tuple[tuple[str, str], ...]


class GrpcFront(grpc.GenericRpcHandler):
    """Calls of clients, to Triton's gRPC socket."""

    def __init__(self, settings: FrontSettings, work: Work) -> None:
        self._settings, self._work = settings, work
        self._channel: Any = None
        self._server: Any = None
        self._calls: dict[str, Any] = {}

    async def start(self) -> None:
        """Raises `OSError` if the port is taken."""
        self._channel = grpc.aio.insecure_channel(
            f"unix:{self._settings.grpc_socket}",
            [
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.enable_retries", 0),
                ("grpc.enable_http_proxy", 0),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 200),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )
        self._server = grpc.aio.server(
            handlers=[self],
            maximum_concurrent_rpcs=_MAX_CALLS,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", rules.MAX_REQUEST_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 128),
                ("grpc.max_metadata_size", 16 * 1024),
                # Only uncompressed messages: 1.5 MB of gzip can be gigabytes.
                ("grpc.compression_enabled_algorithms_bitset", 1),
            ],
        )
        address = f"{self._settings.host}:{self._settings.grpc}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"the address {address} is in use") from error
        await self._server.start()

    async def stop(self) -> None:
        """End all calls and connections."""
        if self._server is not None:
            await self._server.stop(0)
        if self._channel is not None:
            await self._channel.close()

    async def finish(self, within_s: float) -> None:
        """Refuse connections, and wait until no call is in progress, at most so long."""
        await self._server.stop(within_s)

    def service(self, details: Any) -> Any:
        """The handler of a call. A refused call is answered before its message is read."""
        method, given = details.method, dict(details.invocation_metadata or ())
        tokens = (given.get(TOKEN_HEADER), given.get(_TRITONS_TOKEN))
        if any(isinstance(one, bytes) for one in tokens):
            return _refusal(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)
        if not _HEALTH.fullmatch(method) and not self._work.may(*tokens):
            return _refusal(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)
        try:
            self._work.check_open()
        except ServerUnavailable as error:
            return _refusal(_code_of(error), error_text(error))
        if _INFER.fullmatch(method):
            metadata = self._passed_on(tokens)

            async def infer(data: bytes, context: Any) -> bytes:
                return await self._infer(data, context, method, metadata)

            return grpc.unary_unary_rpc_method_handler(infer)
        if _DESCRIPTION.fullmatch(method) or (self._settings.shared_memory and method in _SHARED):

            async def describe(data: bytes, context: Any) -> bytes:
                return await self._describe(data, context, method)

            return grpc.unary_unary_rpc_method_handler(describe)
        return _refusal(grpc.StatusCode.PERMISSION_DENIED, rules.CLOSED)

    def _passed_on(self, tokens: tuple[str | None, ...]) -> Metadata:
        if not self._settings.forward_token:
            return ()
        found = next((one for one in tokens if one is not None), None)
        return () if found is None else ((_TRITONS_TOKEN, found),)

    async def _infer(self, data: bytes, context: Any, method: str, metadata: Metadata) -> bytes:
        try:
            with self._work.request(len(data)):
                request = service_pb2.ModelInferRequest.FromString(data)
                del data
                request = checked_message(request, shared_memory=self._settings.shared_memory)
                text = request.SerializeToString()
                del request
                return await self._ask(method, text, metadata, context)
        except OISError as error:
            await context.abort(_code_of(error), error_text(error))
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request cannot be read")
        raise AssertionError("abort raises")

    async def _describe(self, data: bytes, context: Any, method: str) -> bytes:
        if len(data) > rules.MAX_DESCRIPTION_BYTES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, rules.TOO_LARGE)
        try:
            with self._work.request(len(data)):
                return await self._ask(method, _description(method, data), (), context)
        except OISError as error:
            await context.abort(_code_of(error), error_text(error))
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request cannot be read")
        raise AssertionError("abort raises")

    async def _ask(self, method: str, text: bytes, metadata: Metadata, context: Any) -> bytes:
        """Triton's answer. A request is sent once: it may be what ended the server."""
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self._channel.unary_unary(method)
        try:
            async with asyncio.timeout(rules.ANSWER_TIMEOUT_S):
                answer: bytes = await call(text, metadata=metadata)
                return answer
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            ours = details.startswith("OIS:")
            if code is grpc.StatusCode.UNAVAILABLE and not ours:
                details = NOT_READY  # gRPC's text would name the socket
            await context.abort(code, details)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the server did not answer in time"
            )
        raise AssertionError("abort raises")


def _description(method: str, data: bytes) -> bytes:
    """The message of a call that has a name at most, read and written again."""
    kind = _OF_NAME.get(method)
    if kind is not None:
        named = kind.FromString(data)
        if not _NAME.fullmatch(named.name) or not _VERSION.fullmatch(named.version):
            raise InvalidInput("got no name and version of a model")
        text: bytes = kind(name=named.name, version=named.version).SerializeToString()
        return text
    shared = _SHARED.get(method)
    if shared is None:
        return b""
    request = shared.FromString(data)
    if shared is service_pb2.SystemSharedMemoryRegisterRequest:
        check_region(request.name, request.key, request.offset, request.byte_size)
    elif not request.name:  # it would mean all regions
        raise InvalidInput("got no name of shared memory")
    request.DiscardUnknownFields()
    written: bytes = request.SerializeToString()
    return written


#: The only name that differs from gRPC's own.
_CODES = {"INVALID_ARG": "INVALID_ARGUMENT"}


def _code_of(error: OISError) -> Any:
    name = triton_code(error)
    return grpc.StatusCode[_CODES.get(name, name)]


def _refusal(code: Any, text: str) -> Any:
    """Answers without reading the message."""

    async def refuse(_: Any, context: Any) -> None:
        await context.abort(code, text)

    return grpc.stream_unary_rpc_method_handler(refuse)
