"""HTTP as the gateway speaks it: bounded bodies, typed errors, requests that are given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_OWN_SITES = ("same-origin", "none")  # none: typed into the address bar


class Guard:
    """ASGI middleware around everything, errors included.

    names: what Host may be, each with its port.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        problem = self._problem(Headers(scope=scope))
        if problem is None:
            await self._app(scope, receive, send_guarded)
            return
        body = json.dumps({"error": {"code": "ACCESS_DENIED", "message": problem}})
        refusal = Response(body, status_code=403, media_type="application/json")
        await refusal(scope, receive, send_guarded)

    def _problem(self, headers: Headers) -> str | None:
        """Why a request is refused; None when it may pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._names:
            return (
                f"got a request for the host {host[:80]!r}; this page answers on this machine "
                f"only, as one of {sorted(self._names)}"
            )
        if origin is not None and origin != f"http://{host}":
            return f"got a request from the page {origin[:80]!r}; only the demo's own page may ask"
        if headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return "got a request from another page; only the demo's own page may ask"
        return None


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
