"""Clicks of the page: its request becomes a `ClickRequest`, and the reply becomes its response.

As on the wire (`ois_client.wire`), the gateway stores nothing: the page sends the image's digest,
all clicks on the object and the coverage of its mask, and gets the new mask and coverage.

    request, head   digest, width, height   of the image
                    model                   sha256 of the model that made the coverage; "" for any
                    clicks                  [[x, y, positive], ...] in pixels of the image
                    want                    some of "mask", "depth", "order"
                    answer                  "full" or "coarse"; absent means "full"
                    window                  of the previous mask, as in the response; or null
             parts  coverage                (gh, gw) uint8; absent without a previous mask
                    mask                    the previous mask as PNG, to zoom; else absent
    response, head  area_px, box_xyxy, grid [gh, gw], network [h, w], timings_ms, model_sha256,
                    maps: {"positive": bool, "negative": number of maps}
                    window                  [left, top, right, bottom] in which the click was
                                            answered (`zooming.py`); null for the whole image
             parts  shown                   the mask as PNG, at most 2048 pixels per side
                    mask                    if wanted: the mask at the size of the image
                    coverage                (gh, gw) uint8
                    depth, order0, order1…  if wanted: grey PNG at network size, see `ClickReply`;
                                            they are of the whole image, so not with a window

The response to a coarse click has `model_sha256`, `timings_ms` and the part `shown` only: the page
shows it until the full answer is there, and keeps nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.demo.gateway.frames import read_frame, write_frame
from ois_cli.demo.gateway.masks import SHOWN_MASK, mask_head, mask_parts
from ois_cli.demo.gateway.pictures import grey_png, shrink_mask
from ois_cli.demo.gateway.zooming import listed, read_window
from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import IncompatibleServer, InvalidClick, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import MAX_PIXELS, png_of_mask
from ois_client.contract.transport import Answer, ClickReply, ClickRequest, ModelInfo
from ois_client.sessions.zoom import View, Window

WANTS = ("mask", "depth", "order")

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PageClick:
    """A request of the page for the mask of its clicks. want: a subset of `WANTS`.

    mask: the previous mask as PNG, if the answer may be about a window. window: of that mask.
    """

    request: ClickRequest
    geometry: Geometry
    clicks: tuple[Click, ...]
    model: str
    want: frozenset[str]
    mask: bytes | None
    window: Window | None

    @property
    def zooms(self) -> bool:
        """Whether the answer may be about a window."""
        return self.mask is not None and self.request.answer is Answer.FULL

    def about(self, view: View, coverage: NDArray[np.uint8]) -> ClickRequest:
        """The request about a window instead of the image, for the mask alone.

        coverage: of the previous mask, in the window.
        """
        frame, (clicks,) = view.geometry, [view.clicks(self.clicks)]
        points, labels = pack_clicks([clicks], frame.width, frame.height)
        return replace(
            self.request,
            digest=view.picture.digest,
            points=points,
            labels=labels,
            coverage=coverage[None],
            has_previous=np.array([True]),
            want_depth=False,
            want_order=False,
        )

    @classmethod
    def read(cls, data: bytes, info: ModelInfo) -> PageClick:
        """Read a frame. Raises `InvalidInput` and its subclasses if anything in it is wrong."""
        head, parts = read_frame(data)
        width, height = image_size(head)
        geometry = info.fit(width, height)
        clicks = read_clicks(head.get("clicks"))
        points, labels = pack_clicks([clicks], width, height)
        want = _want(head.get("want", []))
        coverage = parts.get("coverage")
        grid = geometry.coverage_shape
        if coverage is not None and len(coverage) != grid[0] * grid[1]:
            raise InvalidInput(
                f"got a coverage of {len(coverage)} cells; expected (rows, columns) = {grid}. The "
                "server's network may have changed: open the image again"
            )
        previous = np.frombuffer(coverage or bytes(grid[0] * grid[1]), dtype=np.uint8)
        request = ClickRequest(
            _matching(head, "digest", _DIGEST),
            points,
            labels,
            previous.reshape(1, *grid),
            np.array([coverage is not None]),
            want_depth="depth" in want,
            want_order="order" in want,
            session="demo",
            answer=_answer(head.get("answer", Answer.FULL.value)),
        )
        model, window = str(head.get("model", "")), read_window(head.get("window"), width, height)
        return cls(request, geometry, clicks, model, want, parts.get("mask"), window)

    def response(
        self, reply: ClickReply, view: View | None = None
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return head and parts of the response. view: the window that the reply is about.

        Raises `IncompatibleServer` if another model made the reply than the coverage.
        """
        if self.model and reply.model_sha256 and self.model != reply.model_sha256:
            raise IncompatibleServer(
                "the server now runs another model than when this image was opened; your masks "
                "are kept. Open the image again to continue clicking"
            )
        if view is not None:
            reply = view.whole(reply, self.geometry)
        mask, coverage = reply.masks[0], reply.coverage[0]
        if reply.answer is Answer.COARSE:
            times = dict(reply.timings_ms)
            shown = png_of_mask(shrink_mask(mask, SHOWN_MASK))
            return {"timings_ms": times, "model_sha256": reply.model_sha256}, {"shown": shown}
        positive = any(click.positive for click in self.clicks)
        fit = self.geometry
        head = {
            **mask_head(mask, fit),
            "network": [fit.network_height, fit.network_width],
            "timings_ms": dict(reply.timings_ms),
            "model_sha256": reply.model_sha256,
            "window": listed(view),
            "maps": {
                "positive": positive,
                "negative": sum(not click.positive for click in self.clicks),
            },
        }
        parts = mask_parts(mask, coverage, full="mask" in self.want)
        if reply.depth is not None:
            parts["depth"] = grey_png(reply.depth)
        if reply.order is not None:
            parts |= {f"order{k}": grey_png(order) for k, order in enumerate(reply.order)}
        return head, parts


def write_response(head: Mapping[str, Any], parts: Mapping[str, bytes], gateway_ms: float) -> bytes:
    """Return the response's frame.

    gateway_ms: time from the last byte of the request to now, including the engines' work.
    """
    return write_frame({**head, "gateway_ms": round(gateway_ms, 3)}, parts)


def image_size(head: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of the image in a request. Raises `InvalidInput` if they are wrong."""
    width, height = (_side(head, name) for name in ("width", "height"))
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            f"got an image of {width} x {height} pixels; expected at most {MAX_PIXELS} pixels"
        )
    return width, height


def _side(head: Mapping[str, Any], name: str) -> int:
    value = head.get(name)
    if type(value) is not int or value < 1:
        raise InvalidInput(f"got {name} = {value!r}; expected that of the image, in pixels")
    return value


def _matching(head: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = head.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidInput(
            f"got {name} = {value!r}; expected the value that opening the image returned"
        )
    return value


def read_clicks(value: Any) -> tuple[Click, ...]:
    """The clicks of a request, [[x, y, positive], ...]. Raises `InvalidClick`."""
    if not isinstance(value, list) or not all(isinstance(c, list) and len(c) == 3 for c in value):
        raise InvalidClick(
            "got clicks that are not a list of lists; expected [[x, y, positive], ...]"
        )
    for x, y, positive in value:
        # In Python, JSON's true is an int, and integers have no limit.
        numbers = all(type(n) is float or (type(n) is int and abs(n) < 2**31) for n in (x, y))
        if not numbers or not isinstance(positive, bool):
            raise InvalidClick(
                "got a click that is not two numbers and a flag; expected [x, y, positive]"
            )
    return tuple(Click(float(x), float(y), positive) for x, y, positive in value)


def _answer(value: Any) -> Answer:
    if not isinstance(value, str):
        raise InvalidInput(f"got answer = {value!r}; expected one of {', '.join(Answer)}")
    return Answer.parse(value)


def _want(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(name in WANTS for name in value):
        raise InvalidInput(f"got want = {value!r}; expected a list with some of {WANTS}")
    return frozenset(value)
