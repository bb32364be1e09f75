"""The gateway: HTTP from the page on one side, a transport to the engines on the other.

    GET  /, /app.js, ...     the page
    GET  /samples/cat.jpg    a sample photograph
    GET  /api/info           the network, the limits; also how the page learns that it is up
    POST /api/images         an image file -> digest, size, and unless `?picture=no` what to show
    POST /api/clicks         see `gateway_clicks`
    POST /api/results        see `gateway_results`

Bodies and answers of POST are frames (`gateway_frames`), an image file is sent as it is. Nothing
of a session is kept here: a gateway that is started again answers the next click of an open page.
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

from ois_cli.demo.gateway.clicks import SHOWN_MASK, Question, write_answer
from ois_cli.demo.gateway.frames import MEDIA_TYPE, write_frame
from ois_cli.demo.gateway.http import error_response, on_error, read_body, unless_gone
from ois_cli.demo.gateway.pictures import LIMITS, notes, read_upload, shown_picture, too_many_bytes
from ois_cli.demo.gateway.results import result
from ois_cli.demo.samples import PHOTOGRAPHS
from ois_cli.drawing.colours import OBJECT_COLOURS, VIRIDIS, object_colour
from ois_client.contract.clicks import SLOTS_PER_SIGN
from ois_client.contract.errors import OISError
from ois_client.contract.images import Picture
from ois_client.contract.transport import AsyncTransport, EncodeReply, ModelInfo

#: The shipped network by its name: whoever tries it first should know what to expect.
_SHIPPED = "ois-tiny"
_SHIPPED_NOTE = (
    "This is the small network that comes along, trained on drawn scenes only: on photographs its "
    "masks are rough."
)
_UNTRAINED_NOTE = "These engines hold random weights: times are real, masks mean nothing."

#: A coverage has a byte a patch; networks have some thousands.
_CLICK_BYTES = 2**22
#: An image file and the PNG masks of its objects.
_RESULT_BYTES = LIMITS.max_bytes + 2**25


_PAGE = Path(str(resources.files("ois_cli.demo") / "page"))
#: The system's table may be empty, and browsers run no module of another type.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class GatewayApp:
    """The routes over one transport. where: what the page calls the place of the engines."""

    def __init__(self, transport: AsyncTransport, info: ModelInfo, where: str) -> None:
        self._transport = transport
        self._info = info
        self._where = where
        self._page = page_files()
        self._samples = sample_files()

    def starlette(self) -> Starlette:
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

    # -- what the page asks ----------------------------------------------------------------

    async def info(self, _: Request) -> Response:
        """Raises `ServerUnavailable` while the engines do not answer."""
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
        """Encodes the image, and meanwhile makes the picture that the page shows."""
        declared = int(request.headers.get("content-length") or 0)
        data = await read_body(request, LIMITS.max_bytes, too_many_bytes(declared))
        wants_picture = request.query_params.get("picture") != "no"
        return await unless_gone(request, self._image(data, wants_picture))

    async def _image(self, data: bytes, wants_picture: bool) -> Response:
        picture = await asyncio.to_thread(read_upload, data)
        parts: dict[str, bytes] = {}
        if wants_picture:
            # One after the other: a damaged image is not to reach the engines.
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
        question = Question.read(data, self._info)
        reply = await unless_gone(request, self._transport.click(question.request))
        head, parts = await asyncio.to_thread(question.answer, reply)
        took_ms = (time.perf_counter() - started) * 1e3
        return Response(write_answer(head, parts, took_ms), media_type=MEDIA_TYPE)

    async def results(self, request: Request) -> Response:
        data = await read_body(request, _RESULT_BYTES)
        file, media_type = await asyncio.to_thread(result, data)
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
        return error_response("NOT_FOUND", "there is no such page here", 404)
    # The page belongs to the running program: another version may answer the next time.
    headers = {"cache-control": "no-cache"}
    return Response(found.data, media_type=found.media_type, headers=headers)


@dataclass(frozen=True, slots=True)
class Served:
    data: bytes
    media_type: str


def page_files() -> Mapping[str, Served]:
    """Path after the host's slash -> file; "" is the page itself."""
    kinds = (*_TYPES, ".html")
    paths = [path for path in _PAGE.rglob("*") if path.suffix in kinds]
    files = {path.relative_to(_PAGE).as_posix(): _read(path) for path in paths}
    return {**files, "": files["index.html"]}


def sample_files() -> Mapping[str, Served]:
    """File name -> sample photograph."""
    return {photograph.file: _read(photograph.path) for photograph in PHOTOGRAPHS}


def _read(path: Path) -> Served:
    guessed = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return Served(path.read_bytes(), guessed or "application/octet-stream")
