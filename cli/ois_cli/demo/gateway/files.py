"""The files that the gateway serves: the page, the sample photographs, and a folder of images."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.responses import Response

from ois_cli.demo.gateway.http import error_response
from ois_cli.demo.samples import PHOTOGRAPHS
from ois_client.contract.errors import InvalidImage

_PAGE = Path(str(resources.files("ois_cli.demo") / "page"))
#: Not left to the system's table, which may be empty; browsers check the type of modules.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


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


def file_response(found: Served | None) -> Response:
    """The response with a file of a mapping; None: there is no such file."""
    if found is None:
        return error_response(
            "NOT_FOUND", "got a path that does not exist; expected / or a file of the page", 404
        )
    # The browser must ask again each time: the next start may serve another version.
    headers = {"cache-control": "no-cache"}
    return Response(found.data, media_type=found.media_type, headers=headers)


class ImageFolder:
    """The images of `ois demo FOLDER`, by number. Only the files listed at the start are served.

    folder: they are named relative to it. images: their paths.
    """

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self._name = folder.resolve().name
        # The page keeps its work under this name, so that another folder has other work.
        self._id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        named = {_relative(path, folder): path for path in images}
        self._files = dict(sorted(named.items(), key=lambda item: _natural(item[0])))

    def listing(self) -> dict[str, Any]:
        return {"name": self._name, "id": self._id, "files": [*self._files]}

    async def read(self, number: int, limit: int) -> bytes:
        """The file's first `limit` bytes and one more. Raises `InvalidImage` if it is gone."""
        name, path = [*self._files.items()][number]
        try:
            return await asyncio.to_thread(_head, path, limit + 1)
        except OSError as error:
            raise InvalidImage(
                f"{name} cannot be read: {error.strerror}; if it was moved, start `ois demo` again"
            ) from error

    def __len__(self) -> int:
        return len(self._files)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts image-9 before image-10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _head(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _read(path: Path) -> Served:
    guessed = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return Served(path.read_bytes(), guessed or "application/octet-stream")
