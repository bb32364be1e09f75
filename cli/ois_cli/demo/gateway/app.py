"""The gateway's routes: it serves the page, and passes its requests on to the engines.

    GET  /, /app.js, ...     the page
    GET  /samples/NAME       a sample photograph
    GET  /folder/NUMBER      an image of the folder of `ois demo FOLDER`
    GET  /api/info           the network and the limits; the page polls it until it answers
    POST /api/images         an image file -> its digest and size, and a picture to show
                             (none with `?picture=no`)
    POST /api/clicks         see `clicks.py`
    POST /api/edits          a stroke of the brush on a mask, see `editing.py`
    POST /api/masks          a file with masks -> its masks, see `loading.py`
    POST /api/attention      see `attention.py`
    POST /api/results        files of one image, see `results.py`
    POST /api/archives       a file of all images, see `archive.py`

Requests and responses of POST are frames (`frames.py`), except that an image file is sent as it
is. The gateway keeps no session: after a restart it can answer the next click of an open page. It
remembers the last images, to cut windows out of them (`zooming.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ois_cli.demo.gateway import archive
from ois_cli.demo.gateway.attention import AttentionNetwork
from ois_cli.demo.gateway.clicks import PageClick, write_response
from ois_cli.demo.gateway.editing import edited
from ois_cli.demo.gateway.files import ImageFolder, file_response, page_files, sample_files
from ois_cli.demo.gateway.frames import MEDIA_TYPE, write_frame
from ois_cli.demo.gateway.http import error_response, on_error, read_body, unless_disconnected
from ois_cli.demo.gateway.loading import loaded
from ois_cli.demo.gateway.masks import SHOWN_MASK
from ois_cli.demo.gateway.pictures import LIMITS, notes, read_upload, shown_picture, too_many_bytes
from ois_cli.demo.gateway.results import result_file
from ois_cli.demo.gateway.zooming import Seen, Zooms
from ois_cli.demo.samples import PHOTOGRAPHS
from ois_cli.drawing.colours import OBJECT_COLOURS, VIRIDIS, object_colour
from ois_client.contract.clicks import SLOTS_PER_SIGN
from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.images import Picture
from ois_client.contract.steps import run_async
from ois_client.contract.transport import AsyncTransport, ClickReply, EncodeReply, ModelInfo
from ois_client.sessions.base import Ask, click_steps
from ois_client.sessions.zoom import FIRST_CLICK

#: Name of the shipped network, about which the page shows a note.
_SHIPPED = "ois-tiny"
_SHIPPED_NOTE = (
    "This is the small sample network. It was trained on drawn scenes only, so its masks of "
    "photographs are rough."
)
_UNTRAINED_NOTE = "These engines have random weights: times are real, masks are meaningless."

#: Most bytes of a click. A coverage has one byte per patch, a few thousand in all; a mask has one
#: bit per pixel, before it is compressed.
_CLICK_BYTES = 2**24
#: Most bytes of an image file and the PNG masks of its objects.
_RESULT_BYTES = LIMITS.max_bytes + 2**25


class GatewayApp:
    """The routes over one transport.

    where: the engines' location, as the page shows it. folder: the images of the page's list.
    classes: names of classes that the page starts with. attention: the network whose attention
    the page shows, if there is one here.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        info: ModelInfo,
        where: str,
        *,
        folder: ImageFolder | None = None,
        classes: Sequence[str] = (),
        attention: AttentionNetwork | None = None,
    ) -> None:
        self._transport = transport
        self._info = info
        self._where = where
        self._folder = folder
        self._classes = classes
        self._attention = attention
        self._zooms = Zooms()
        self._page = page_files()
        self._samples = sample_files()

    def starlette(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/api/info", self.info),
            Route("/api/images", self.image, methods=["POST"]),
            Route("/api/clicks", self.click, methods=["POST"]),
            Route("/api/edits", self.edit, methods=["POST"]),
            Route("/api/masks", self.masks, methods=["POST"]),
            Route("/api/attention", self.attention, methods=["POST"]),
            Route("/api/results", self.results, methods=["POST"]),
            Route("/api/archives", self.archive, methods=["POST"]),
            Route("/samples/{name}", self.sample),
            Route("/folder/{number:int}", self.listed),
            Route("/{name:path}", self.page),
        ]
        return Starlette(
            routes=routes, exception_handlers={OISError: on_error, Exception: on_error}
        )

    # -- files -----------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        return file_response(self._page.get(request.path_params["name"]))

    async def sample(self, request: Request) -> Response:
        return file_response(self._samples.get(request.path_params["name"]))

    async def listed(self, request: Request) -> Response:
        number = request.path_params["number"]
        if self._folder is None or number >= len(self._folder):
            return file_response(None)
        # One byte more than the limit, so that the page reports a file that is too large.
        data = await self._folder.read(number, LIMITS.max_bytes)
        return Response(data, media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})

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
                "coarse_answers": self._info.coarse_answers,
                "zoom_from": FIRST_CLICK,
                "shown_mask": SHOWN_MASK,
                "colours": [object_colour(number) for number in range(1, OBJECT_COLOURS + 1)],
                "viridis": VIRIDIS.tolist(),
                "samples": [{"file": p.file, "subject": p.subject} for p in PHOTOGRAPHS],
                "folder": self._folder.listing() if self._folder else None,
                "classes": list(self._classes),
                "attention": self._attention is not None,
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
        self._zooms.add(picture)
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
        seen = await asyncio.to_thread(self._seen, click) if click.zooms else None
        reply = await unless_disconnected(request, self._reply(click, seen))
        view = None if seen is None else seen[0]
        head, parts = await asyncio.to_thread(click.response, reply, view)
        gateway_ms = (time.perf_counter() - started) * 1e3
        return Response(write_response(head, parts, gateway_ms), media_type=MEDIA_TYPE)

    def _seen(self, click: PageClick) -> Seen | None:
        mask, digest = click.mask or b"", click.request.digest
        return self._zooms.view(digest, mask, click.clicks, click.window, self._info)

    async def _reply(self, click: PageClick, seen: Seen | None) -> ClickReply:
        if seen is None:
            return await self._transport.click(click.request)
        view, coverage = seen
        about = click.about(view, coverage)
        steps = click_steps(about, view.picture, lambda _: None, new=not view.sent)

        async def perform(ask: Ask) -> ClickReply | ModelInfo:
            if ask is None:
                return await self._transport.info()
            return await self._transport.click(ask.request, ask.picture)

        reply = await run_async(steps, perform)
        view.sent = True
        return reply

    async def edit(self, request: Request) -> Response:
        data = await read_body(request, _RESULT_BYTES)
        started = time.perf_counter()
        head, parts = await asyncio.to_thread(edited, data, self._info)
        gateway_ms = (time.perf_counter() - started) * 1e3
        return Response(write_response(head, parts, gateway_ms), media_type=MEDIA_TYPE)

    async def masks(self, request: Request) -> Response:
        data = await read_body(request, _RESULT_BYTES)
        head, parts = await asyncio.to_thread(loaded, data, self._info)
        return Response(write_frame(head, parts), media_type=MEDIA_TYPE)

    async def attention(self, request: Request) -> Response:
        if self._attention is None:
            return error_response("NOT_FOUND", "got a request for attention without a network", 404)
        data = await read_body(request, _RESULT_BYTES)
        head, parts = await asyncio.to_thread(self._attention.answer, data)
        return Response(write_frame(head, parts), media_type=MEDIA_TYPE)

    async def results(self, request: Request) -> Response:
        data = await read_body(request, _RESULT_BYTES)
        file, media_type = await asyncio.to_thread(result_file, data)
        return Response(file, media_type=media_type)

    async def archive(self, request: Request) -> Response:
        limit = archive.LARGEST
        too_large = InvalidInput(
            f"got more than {limit // 2**20} MiB of masks; expected less. Save the images in "
            "several parts: remove some from the list, or start the demo with a smaller folder"
        )
        data = await read_body(request, limit, too_large)
        file = await asyncio.to_thread(archive.archive, data)
        return Response(file, media_type="application/zip")


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
