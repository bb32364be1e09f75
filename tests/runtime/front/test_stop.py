"""The front stops: what is in progress is answered, and what comes later is told why it is not."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ois_client.contract.errors import ServerUnavailable
from ois_client.wire import MODEL, error_from_text
from ois_runtime.front import __main__ as front
from ois_runtime.front.settings import FrontSettings
from support.server.ports import free_ports

REQUEST = service_pb2.ModelInferRequest(model_name=MODEL)
LARGE = bytes(3 * 2**20)  # such an answer is passed on in pieces


@asynccontextmanager
async def running() -> AsyncIterator[SimpleNamespace]:
    """A front before a Triton that answers when it is released.

    Has the task, `stop` and `release`, the number of requests that Triton has, and clients.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        ports = free_ports(2)
        settings = FrontSettings(
            host="127.0.0.1", grpc=ports[0], http=ports[1], metrics=None, sockets=folder, grace_s=60
        )
        all_of_it = SimpleNamespace(stop=asyncio.Event(), release=asyncio.Event(), asked=0)

        class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
            async def ModelInfer(self, request: Any, _: Any) -> Any:
                all_of_it.asked += 1
                await all_of_it.release.wait()
                return service_pb2.ModelInferResponse(model_name=request.model_name)

        async def infer(request: web.BaseRequest) -> web.Response:
            await request.read()
            all_of_it.asked += 1
            await all_of_it.release.wait()
            return web.Response(body=LARGE)

        behind = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(), behind)
        behind.add_insecure_port(f"unix:{settings.grpc_socket}")
        await behind.start()
        stack.push_async_callback(behind.stop, 0)
        runner = web.ServerRunner(web.Server(infer), shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(settings.http_socket)).start()
        stack.push_async_callback(runner.cleanup)

        all_of_it.task = asyncio.create_task(front.serve(settings, all_of_it.stop))
        stack.push_async_callback(ended, all_of_it.task)
        await until(lambda: settings.listening.exists() or all_of_it.task.done())
        session = await stack.enter_async_context(aiohttp.ClientSession())
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}")
        await stack.enter_async_context(channel)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def over_http() -> tuple[int, bytes]:
            url = f"http://127.0.0.1:{ports[1]}/v2/models/{MODEL}/infer"
            async with session.post(url, data=b'{"inputs":[]}') as answer:
                return answer.status, await answer.read()

        async def over_grpc() -> str:
            return str((await stub.ModelInfer(REQUEST)).model_name)

        all_of_it.over_http, all_of_it.over_grpc = over_http, over_grpc
        yield all_of_it


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_new_requests_are_told_that_the_server_is_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_NOTICE_S", 60.0)

    async def use() -> None:
        async with running() as one:
            first = [asyncio.create_task(ask()) for ask in (one.over_http, one.over_grpc)]
            await until(lambda: one.asked == 2)
            one.stop.set()
            await asyncio.sleep(0)
            for _ in range(3):
                status, body = await one.over_http()
                assert status == 503
                tell(body.decode())
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await one.over_grpc()
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                tell(refused.value.details() or "")
            assert one.asked == 2
            one.release.set()
            assert [await task for task in first] == [(200, LARGE), MODEL]

    def tell(text: str) -> None:
        error = error_from_text(text.removeprefix('{"error": "').removesuffix('"}'))
        assert isinstance(error, ServerUnavailable)
        assert "is stopping" in str(error)

    asyncio.run(use())


def test_connections_are_then_refused_while_requests_in_progress_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(front, "_NOTICE_S", 0.0)

    async def use() -> None:
        async with running() as one:
            first = [
                asyncio.create_task(ask()) for ask in (one.over_http, one.over_grpc) for _ in "123"
            ]
            await until(lambda: one.asked == 6)
            one.stop.set()
            async with asyncio.timeout(60):
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    while (await one.over_http())[0] == 503:
                        pass
                    pytest.fail("got an answer that is no refusal")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await one.over_grpc()
            # Cancelled at the moment of the stop, unavailable later; our client repeats both.
            codes = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED
            assert refused.value.code() in codes
            assert not one.task.done()
            assert one.asked == 6
            one.release.set()
            assert [await task for task in first] == [(200, LARGE)] * 3 + [MODEL] * 3
            async with asyncio.timeout(60):
                await one.task

    asyncio.run(use())


def test_an_idle_front_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_NOTICE_S", 60.0)

    async def use() -> None:
        async with running() as one:
            one.stop.set()
            async with asyncio.timeout(30):
                await one.task

    asyncio.run(use())
