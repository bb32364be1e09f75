"""The gRPC front before a Triton that notes what arrives: deadlines, tokens, metadata."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ois_client.wire import MODEL
from ois_runtime.front.grpc import GrpcFront
from ois_runtime.front.settings import FrontSettings
from ois_runtime.front.work import Work
from support.server.ports import free_port

Call = Callable[[Any], Awaitable[None]]


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers after `wait_s`, and notes each call."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.left_s: list[float | None] = []
        self.metadata: list[dict[str, str]] = []
        self.cancelled = 0
        self.dies = False

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.left_s.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata()))
        if self.dies:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed: unix:/tmp/secret")
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return service_pb2.ModelInferResponse(model_name=request.model_name)


def with_front(use: Callable[[Any, Triton], Awaitable[None]], **settings: Any) -> None:
    """Run `use` with a stub of the front, and the Triton behind it."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
            port = free_port()
            chosen = FrontSettings(
                host="127.0.0.1", grpc=port, http=0, metrics=None, sockets=folder, **settings
            )
            triton, behind = Triton(), grpc.aio.server()
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, behind)
            behind.add_insecure_port(f"unix:{chosen.grpc_socket}")
            await behind.start()
            stack.push_async_callback(behind.stop, 0)
            front = GrpcFront(chosen, Work(chosen.token))
            await front.start()
            stack.push_async_callback(front.stop)
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            )
            await use(service_pb2_grpc.GRPCInferenceServiceStub(channel), triton)

    asyncio.run(run())


REQUEST = service_pb2.ModelInferRequest(model_name=MODEL)


def test_deadlines_stay_at_the_front_and_their_calls_are_cancelled() -> None:
    async def use(stub: Any, triton: Triton) -> None:
        assert (await stub.ModelInfer(REQUEST, timeout=60)).model_name == MODEL
        assert triton.left_s[-1] is None
        triton.wait_s = 60
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.ModelInfer(REQUEST, timeout=1)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(20):
            while not triton.cancelled:
                await asyncio.sleep(0.01)
        assert triton.left_s[-1] is None

    with_front(use)


@pytest.mark.parametrize("forward", [False, True])
def test_only_the_token_is_passed_on_and_only_where_models_need_it(forward: bool) -> None:
    async def use(stub: Any, triton: Triton) -> None:
        for name in ("authorization", "triton-grpc-protocol-authorization"):
            await stub.ModelInfer(REQUEST, metadata=[(name, "secret"), ("x-other", "1")])
            seen = {key: value for key, value in triton.metadata[-1].items() if key != "user-agent"}
            expected = {"triton-grpc-protocol-authorization": "secret"} if forward else {}
            assert seen == expected
        for wrong in ([], [("authorization", "secre")], [("authorization", "")]):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ModelInfer(REQUEST, metadata=wrong)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert len(triton.metadata) == 2

    with_front(use, token="secret", forward_token=forward)


def test_a_request_that_ends_the_server_is_not_sent_again() -> None:
    async def use(stub: Any, triton: Triton) -> None:
        triton.dies = True
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ModelInfer(REQUEST)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "/tmp" not in (failed.value.details() or "")
        assert len(triton.metadata) == 1

    with_front(use)
