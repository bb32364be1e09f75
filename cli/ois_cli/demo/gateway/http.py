"""HTTP as the gateway speaks it: bounded bodies, typed errors, requests that are given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ois_cli.output import as_ois_error
from ois_client.contract.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    IncompatibleServer,
    InvalidInput,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
    UnknownImage,
)

Answer = TypeVar("Answer")

#: kind of error -> HTTP status; the first that fits counts.
_STATUS: tuple[tuple[type[OISError], int], ...] = (
    (InvalidInput, 400),
    (UnknownImage, 404),
    (IncompatibleServer, 409),
    (Cancelled, 499),
    (AccessDenied, 502),
    (ServerUnavailable, 503),
    (ServerOverloaded, 503),
    (DeadlineExceeded, 504),
)


def error_response(code: str, message: str, status: int) -> Response:
    """The same JSON as `--json` prints."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)


async def on_error(_: Request, error: Exception) -> Response:
    """A typed error as it is; of any other only the kind, its trace is in the terminal."""
    known = as_ois_error(error)
    if known is None:
        text = f"the demo failed inside ({type(error).__name__}); its terminal says more"
        return error_response("INTERNAL", text, 500)
    status = next((code for kind, code in _STATUS if isinstance(known, kind)), 500)
    return error_response(known.code, str(known), status)


async def read_body(request: Request, limit: int, too_large: OISError | None = None) -> bytes:
    """At most `limit` bytes. Raises `InvalidInput`, or `too_large`, as soon as it is known."""
    refusal = too_large or InvalidInput(f"got a request of more than {limit} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise refusal
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise refusal
    except ClientDisconnect:
        raise Cancelled("the upload was given up") from None
    return bytes(data)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The result of `work`; when the browser gives the request up, so is the work (`Cancelled`).

    To be called after the body was read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("the page gave this request up for a newer one")
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
