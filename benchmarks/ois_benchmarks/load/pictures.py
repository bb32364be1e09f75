"""Pictures for a load run: JPEG bytes, and copies that no server has seen before."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from PIL import Image

from ois_client.contract.errors import InvalidImage
from ois_client.contract.images import load_image

_START = b"\xff\xd8"  # of every JPEG
_COMMENT = b"\xff\xfe"


@dataclass(frozen=True, slots=True)
class LoadPicture:
    """width, height: pixels after EXIF orientation."""

    name: str
    data: bytes = field(repr=False)
    width: int
    height: int

    def unseen(self, mark: str) -> LoadPicture:
        """The same pixels under another digest: `mark` in a JPEG comment."""
        text = mark.encode()
        comment = _COMMENT + (len(text) + 2).to_bytes(2, "big") + text
        data = _START + comment + self.data[len(_START) :]
        return LoadPicture(self.name, data, self.width, self.height)


def shipped_photographs() -> list[Path]:
    """JPEG files that come with the package."""
    return sorted((Path(str(resources.files("ois_export"))) / "photos").glob("*.jpg"))


def read_pictures(paths: Sequence[Path] = ()) -> list[LoadPicture]:
    """The files, or the shipped photographs. What is not JPEG becomes one (quality 95).

    Raises `InvalidImage`.
    """
    return [_read(path) for path in list(paths) or shipped_photographs()]


def _read(path: Path) -> LoadPicture:
    picture = load_image(path)
    pixels = picture.pixels()  # damage shows here, before anything is measured
    data = picture.data
    if data[: len(_START)] != _START:
        if max(picture.width, picture.height) > 65_500:
            raise InvalidImage(
                f"image {str(path)!r} is {picture.width}x{picture.height}; JPEG, in which a load "
                "run sends pictures, ends at 65,500 pixels a side"
            )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        data = file.getvalue()
    return LoadPicture(path.name, data, picture.width, picture.height)
