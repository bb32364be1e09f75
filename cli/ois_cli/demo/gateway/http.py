"""HTTP of the gateway: which requests are allowed, bounded bodies, typed errors, disconnects.

The gateway answers only the page that it served, in a browser on this machine. A loopback address
alone does not ensure that: any page in the same browser can send requests to it, and a host name
that resolves to 127.0.0.1 makes them same-origin (DNS rebinding). So every request must name this
gateway in Host, and none may come from another origin.
"""

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

Result = TypeVar("Result")

#: Class of error -> HTTP status; the first match counts.
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
    """ASGI middleware that refuses foreign requests and sets the security headers.

    hosts: the allowed values of Host, with their ports.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

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
        """Return why a request is refused, or None if it is allowed."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return (
                f"got a request for the host {host[:80]!r}; expected one of "
                f"{sorted(self._hosts)}. Open the demo on this machine"
            )
        if origin is not None and origin != f"http://{host}":
            return f"got a request from {origin[:80]!r}; expected the demo's own page"
        if headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return "got a request from another page; expected the demo's own page"
        return None


def error_response(code: str, message: str, status: int) -> Response:
    """Return an error as the JSON document that `--json` prints."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)


async def on_error(_: Request, error: Exception) -> Response:
    """Answer with a typed error. Of other errors only the class is sent; the log has the trace."""
    known = as_ois_error(error)
    if known is None:
        text = f"the demo has a defect ({type(error).__name__}); its terminal shows the details"
        return error_response("INTERNAL", text, 500)
    status = next((code for kind, code in _STATUS if isinstance(known, kind)), 500)
    return error_response(known.code, str(known), status)


async def read_body(request: Request, limit: int, too_large: OISError | None = None) -> bytes:
    """Read the body, at most `limit` bytes.

    Raises `too_large` (default: `InvalidInput`) as soon as the body exceeds the limit, and
    `Cancelled` if the browser disconnects.
    """
    refusal = too_large or InvalidInput(f"got a request of more than {limit} bytes; expected less")
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
        raise Cancelled("the browser cancelled the upload") from None
    return bytes(data)


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`. Call it after the body was read.

    Cancels the work and raises `Cancelled` if the browser disconnects first.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("the browser cancelled the request")
    finally:
        task.cancel()
        disconnect.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
