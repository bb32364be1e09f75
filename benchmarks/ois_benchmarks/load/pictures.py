"""Pictures for a load run: JPEG files, and copies that are new to any server."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from PIL import Image

from ois_client.contract.errors import InvalidImage
from ois_client.contract.images import load_image

_START = b"\xff\xd8"  # of every JPEG file
_COMMENT = b"\xff\xfe"


@dataclass(frozen=True, slots=True)
class LoadPicture:
    """A JPEG file. width, height: in pixels, after EXIF orientation."""

    name: str
    data: bytes = field(repr=False)
    width: int
    height: int

    def unseen(self, mark: str) -> LoadPicture:
        """A copy with the same pixels and another digest. mark: put into a JPEG comment."""
        text = mark.encode()
        comment = _COMMENT + (len(text) + 2).to_bytes(2, "big") + text
        data = _START + comment + self.data[len(_START) :]
        return LoadPicture(self.name, data, self.width, self.height)


def shipped_photographs() -> list[Path]:
    """The JPEG files that are shipped with the package."""
    return sorted((Path(str(resources.files("ois_export"))) / "photos").glob("*.jpg"))


def read_pictures(paths: Sequence[Path] = ()) -> list[LoadPicture]:
    """Read these files, or the shipped photographs. Other formats become JPEG (quality 95).

    Raises `InvalidImage` if a file is damaged, or too large for JPEG.
    """
    return [_read(path) for path in list(paths) or shipped_photographs()]


def _read(path: Path) -> LoadPicture:
    picture = load_image(path)
    pixels = picture.pixels()  # raises for a damaged file before anything is measured
    data = picture.data
    if data[: len(_START)] != _START:
        if max(picture.width, picture.height) > 65_500:
            raise InvalidImage(
                f"image {str(path)!r} is {picture.width}x{picture.height}; a load run sends JPEG, "
                "which allows at most 65,500 pixels per side"
            )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        data = file.getvalue()
    return LoadPicture(path.name, data, picture.width, picture.height)
