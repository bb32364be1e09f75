"""Requests to the demo's gateway, as the page makes them."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_cli.demo.gateway.frames import read_frame, write_frame


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> tuple[str, str]:
        """Code and message of the error."""
        error = json.loads(self.body)["error"]
        return error["code"], error["message"]

    @property
    def frame(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        assert self.status == 200, self.body
        return read_frame(self.body)


def ask(
    url: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Reply:
    """Send one request. Unlike a browser, `http.client` does not normalise the path."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, dict(headers or {}))
        reply = connection.getresponse()
        found = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, found, reply.read())
    finally:
        connection.close()


def open_image(url: str, data: bytes, query: str = "") -> tuple[dict[str, Any], dict[str, bytes]]:
    return ask(url, f"/api/images{query}", data).frame


def click(
    url: str,
    image: Mapping[str, Any],
    clicks: list[Any],
    coverage: bytes | None = None,
    mask: bytes | None = None,
    **head: Any,
) -> Reply:
    request = {
        "digest": image["digest"],
        "width": image["width"],
        "height": image["height"],
        "model": "",
        "clicks": clicks,
        "want": ["mask"],
        **head,
    }
    given = {"coverage": coverage, "mask": mask}
    parts = {name: part for name, part in given.items() if part is not None}
    return ask(url, "/api/clicks", write_frame(request, parts))


def encoded(pixels: NDArray[np.uint8], form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)))
