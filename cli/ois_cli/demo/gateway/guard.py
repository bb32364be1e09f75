"""Who may talk to the gateway: the page that it served itself, in a browser on this machine.

A loopback address alone is no protection: any page in the same browser can send requests to it,
and a name that resolves to 127.0.0.1 makes them same-origin (DNS rebinding). So every request
must name this gateway in Host, and none may come from another origin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
