"""The gateway's routes: it serves the page, and passes its requests on to the engines.

    GET  /, /app.js, ...     the page
    GET  /samples/NAME       a sample photograph
    GET  /api/info           the network and the limits; the page polls it until it answers
    POST /api/images         an image file -> its digest and size, and a picture to show
                             (none with `?picture=no`)
    POST /api/clicks         see `clicks.py`
    POST /api/results        see `results.py`

Requests and responses of POST are frames (`frames.py`), except that an image file is sent as it
is. The gateway keeps no session: after a restart it can answer the next click of an open page.
"""

from __future__ import annotations

import asyncio
import mimetypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ois_cli.demo.gateway.clicks import SHOWN_MASK, PageClick, write_response
from ois_cli.demo.gateway.frames import MEDIA_TYPE, write_frame
from ois_cli.demo.gateway.http import error_response, on_error, read_body, unless_disconnected
from ois_cli.demo.gateway.pictures import LIMITS, notes, read_upload, shown_picture, too_many_bytes
from ois_cli.demo.gateway.results import result_file
from ois_cli.demo.samples import PHOTOGRAPHS
from ois_cli.drawing.colours import OBJECT_COLOURS, VIRIDIS, object_colour
from ois_client.contract.clicks import SLOTS_PER_SIGN
from ois_client.contract.errors import OISError
from ois_client.contract.images import Picture
from ois_client.contract.transport import AsyncTransport, EncodeReply, ModelInfo

#: Name of the shipped network, about which the page shows a note.
_SHIPPED = "ois-tiny"
_SHIPPED_NOTE = (
    "This is the small sample network. It was trained on drawn scenes only, so its masks of "
    "photographs are rough."
)
_UNTRAINED_NOTE = "These engines have random weights: times are real, masks are meaningless."

#: Most bytes of a click. A coverage has one byte per patch, a few thousand in all.
_CLICK_BYTES = 2**22
#: Most bytes of an image file and the PNG masks of its objects.
_RESULT_BYTES = LIMITS.max_bytes + 2**25

_PAGE = Path(str(resources.files("ois_cli.demo") / "page"))
#: Not left to the system's table, which may be empty; browsers check the type of modules.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class GatewayApp:
    """The routes over one transport. where: the engines' location, as the page shows it."""

    def __init__(self, transport: AsyncTransport, info: ModelInfo, where: str) -> None:
        self._transport = transport
        self._info = info
        self._where = where
        self._page = page_files()
        self._samples = sample_files()

    def starlette(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/api/info", self.info),
            Route("/api/images", self.image, methods=["POST"]),
            Route("/api/clicks", self.click, methods=["POST"]),
            Route("/api/results", self.results, methods=["POST"]),
            Route("/samples/{name}", self.sample),
            Route("/{name:path}", self.page),
        ]
        return Starlette(
            routes=routes, exception_handlers={OISError: on_error, Exception: on_error}
        )

    # -- files -----------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        return _file(self._page.get(request.path_params["name"]))

    async def sample(self, request: Request) -> Response:
        return _file(self._samples.get(request.path_params["name"]))

    # -- requests of the page --------------------------------------------------------------

    async def info(self, _: Request) -> Response:
        """The facts about the engines. Raises `ServerUnavailable` if they do not answer."""
        self._info = await self._transport.info()
        return JSONResponse(
            {
                "network": self._info.network,
                "engine": self._info.engine,
                "trained": self._info.trained,
                "note": _note(self._info),
                "where": self._where,
                "model_sha256": self._info.model_sha256,
                "max_bytes": LIMITS.max_bytes,
                "max_clicks": SLOTS_PER_SIGN,
                "shown_mask": SHOWN_MASK,
                "colours": [object_colour(number) for number in range(1, OBJECT_COLOURS + 1)],
                "viridis": VIRIDIS.tolist(),
                "samples": [{"file": p.file, "subject": p.subject} for p in PHOTOGRAPHS],
            }
        )

    async def image(self, request: Request) -> Response:
        """Make the picture that the page shows, then encode the image."""
        declared = int(request.headers.get("content-length") or 0)
        data = await read_body(request, LIMITS.max_bytes, too_many_bytes(declared))
        wants_picture = request.query_params.get("picture") != "no"
        return await unless_disconnected(request, self._image(data, wants_picture))

    async def _image(self, data: bytes, wants_picture: bool) -> Response:
        picture = await asyncio.to_thread(read_upload, data)
        parts: dict[str, bytes] = {}
        if wants_picture:
            # Before encoding, so that a damaged image does not reach the engines.
            shown, media_type = await asyncio.to_thread(shown_picture, picture)
            parts["picture"] = shown
        encoded = await self._transport.encode(picture)
        if encoded.model_sha256 not in ("", self._info.model_sha256):
            self._info = await self._transport.info()
        head = _image_head(picture, encoded, self._info)
        if wants_picture:
            head |= {"media_type": media_type, "notes": await asyncio.to_thread(notes, picture)}
        return Response(write_frame(head, parts), media_type=MEDIA_TYPE)

    async def click(self, request: Request) -> Response:
        data = await read_body(request, _CLICK_BYTES)
        started = time.perf_counter()
        click = PageClick.read(data, self._info)
        reply = await unless_disconnected(request, self._transport.click(click.request))
        head, parts = await asyncio.to_thread(click.response, reply)
        gateway_ms = (time.perf_counter() - started) * 1e3
        return Response(write_response(head, parts, gateway_ms), media_type=MEDIA_TYPE)

    async def results(self, request: Request) -> Response:
        data = await read_body(request, _RESULT_BYTES)
        file, media_type = await asyncio.to_thread(result_file, data)
        return Response(file, media_type=media_type)


def _note(info: ModelInfo) -> str:
    if not info.trained:
        return _UNTRAINED_NOTE
    return _SHIPPED_NOTE if info.network.startswith(_SHIPPED) else ""


def _image_head(picture: Picture, encoded: EncodeReply, info: ModelInfo) -> dict[str, Any]:
    return {
        "digest": picture.digest,
        "width": picture.width,
        "height": picture.height,
        "cached": encoded.cached,
        "timings_ms": dict(encoded.timings_ms),
        "model_sha256": info.model_sha256,
    }


def _file(found: Served | None) -> Response:
    if found is None:
        return error_response(
            "NOT_FOUND", "got a path that does not exist; expected / or a file of the page", 404
        )
    # The browser must ask again each time: the next start may serve another version.
    headers = {"cache-control": "no-cache"}
    return Response(found.data, media_type=found.media_type, headers=headers)


@dataclass(frozen=True, slots=True)
class Served:
    """A file that the gateway serves."""

    data: bytes
    media_type: str


def page_files() -> Mapping[str, Served]:
    """Read the files of the page. Returns path in the URL -> file; "" is index.html.

    Requests are looked up in this mapping and never reach the file system.
    """
    kinds = (*_TYPES, ".html")
    paths = [path for path in _PAGE.rglob("*") if path.suffix in kinds]
    files = {path.relative_to(_PAGE).as_posix(): _read(path) for path in paths}
    return {**files, "": files["index.html"]}


def sample_files() -> Mapping[str, Served]:
    """Read the sample photographs. Returns file name -> file."""
    return {photograph.file: _read(photograph.path) for photograph in PHOTOGRAPHS}


def _read(path: Path) -> Served:
    guessed = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return Served(path.read_bytes(), guessed or "application/octet-stream")
