"""The files of the page and the sample photographs: all that the gateway will ever hand out.

They are listed once, at the start; a request picks from that list, so that no path of a request
ever reaches the file system.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ois_cli.photographs import PHOTOGRAPHS

_PAGE = Path(str(resources.files("ois_cli.demo") / "page"))
#: The system's table may be empty, and browsers run no module of another type.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Served:
    data: bytes
    media_type: str


def page_files() -> Mapping[str, Served]:
    """Path after the host's slash -> file; "" is the page itself."""
    kinds = (*_TYPES, ".html")
    files = {path.name: _read(path) for path in _PAGE.iterdir() if path.suffix in kinds}
    return {**files, "": files["index.html"]}


def sample_files() -> Mapping[str, Served]:
    """File name -> sample photograph."""
    return {photograph.file: _read(photograph.path) for photograph in PHOTOGRAPHS}


def _read(path: Path) -> Served:
    guessed = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return Served(path.read_bytes(), guessed or "application/octet-stream")
