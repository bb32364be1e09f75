"""Reads the size and the RGB pixels of encoded image files with Pillow.

`PIL.Image.open` is not used. It tries every installed plugin, and its limit against decompression
bombs is a module global, which one thread cannot set without changing it for all. Here the first
bytes select the decoder, and the caller's limit is checked against the header before a pixel is
decoded. One of Pillow's own limits remains: it refuses WebP files above
`2 * PIL.Image.MAX_IMAGE_PIXELS` (179 megapixels unless the application changed it).

Rules for colour, the same on client and server:

- transparent pixels are composited over white, as viewers show them, because people do not
  click on colours hidden by transparency;
- 16-bit grey is scaled to 8 bits (65535 -> 255) and never clipped; 32-bit pixels are refused,
  because the file does not define which value is white;
- of an animation or a multi-page file, the first picture is used;
- colour profiles are ignored.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ois_client.contract.errors import InvalidImage, OISError

if TYPE_CHECKING:
    from PIL import ImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "MPO")

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),  # also MPO, whose first picture is a plain JPEG
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
    *((b"P%d" % kind, "PPM") for kind in range(1, 7)),
)

#: Reads of a file by Pillow. A PNG file needs four for each of its chunks.
_MAX_PIECES = 2**18
#: Files with their pixels as decimal numbers, which Pillow reads in Python.
_PLAIN = (b"P1", b"P2", b"P3")
_MAX_PLAIN = 4 * 2**20

#: EXIF orientation -> the transposition that makes the picture upright. 1 needs none.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_size(data: bytes, max_pixels: int, name: str) -> tuple[int, int]:
    """Read (width, height) after EXIF orientation from the header.

    name: the file's name in error messages. Raises `InvalidImage` if the bytes are not an image
    in one of `FORMATS`, or the image has more than `max_pixels` pixels. Pixel data is not checked.
    """
    with _invalid_image(name):
        return _upright_size(*_open(data, max_pixels, name))


def decode(data: bytes, max_pixels: int, name: str) -> NDArray[np.uint8]:
    """Decode to (H, W, 3) uint8 RGB after EXIF orientation.

    Raises `InvalidImage` as `read_size` does, and if the pixel data is truncated or damaged.
    """
    with _invalid_image(name):
        picture, orientation = _open(data, max_pixels, name)
        expected = _upright_size(picture, orientation)
        picture.load()
        rgb = to_rgb(picture)
        if picture.format != "TIFF":  # Pillow turns TIFFs upright when it loads them
            rgb = upright(rgb, orientation)
        if rgb.size != expected:
            raise InvalidImage(
                f"{name}: the header says {expected[0]}x{expected[1]} pixels but the data "
                f"holds {rgb.size[0]}x{rgb.size[1]}; the file is damaged"
            )
        return np.asarray(rgb)


def is_image(data: bytes) -> bool:
    """Whether the bytes begin as a file in one of `FORMATS` does."""
    return _sniff(data) is not None


def check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raise `InvalidImage` if a side is 0 or there are more than `max_pixels` pixels."""
    if width < 1 or height < 1:
        raise InvalidImage(
            f"{name}: got {width}x{height} pixels; both sides must be at least 1 pixel"
        )
    if width * height > max_pixels:
        raise InvalidImage(
            f"{name}: got {width}x{height} = {width * height} pixels; the limit is "
            f"{max_pixels}. Scale the image down, or raise ImageLimits(max_pixels=...)"
        )


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """Undo an EXIF orientation, 1..8."""
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)


def orientation_of(picture: Image.Image) -> int:
    """EXIF orientation 1..8; 1 if there is none or it cannot be read."""
    try:
        # The method of the base class, because PNG's own decodes the whole picture.
        value = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata raises any type, and the pixels may still be good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a loaded picture to mode RGB by the rules at the top of this file.

    Raises `InvalidImage` for 32-bit pixels.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in _SIXTEEN_BIT):
        picture = _scale_to_eight_bits(picture)
    elif picture.mode in ("I", "F"):
        raise InvalidImage(
            f"got 32-bit or signed grey pixels (Pillow mode {picture.mode!r}), whose black and "
            "white the file does not define; convert to 8 or 16 bits first"
        )
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        if picture.mode in ("La", "RGBa"):
            picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
        picture = picture.convert("RGBA")
        canvas = Image.new("RGB", picture.size, "white")
        canvas.paste(picture, mask=picture.getchannel("A"))
        return canvas
    return picture if picture.mode == "RGB" else picture.convert("RGB")


_SIXTEEN_BIT = ("PNG", "PPM")  # formats whose mode "I" always means 16 bits


def _scale_to_eight_bits(picture: Image.Image) -> Image.Image:
    white, inverted = 65535, False
    if picture.format == "TIFF":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
        white = 2**bits - 1  # Pillow does not scale 12-bit samples
        inverted = tags.get(ExifTags.Base.PhotometricInterpretation) == 0  # white is zero
    table = np.rint(np.arange(65536) * (255 / white)).clip(0, 255).astype(np.uint8)
    if inverted:
        table = 255 - table
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        table[transparent] = 255
    return Image.fromarray(table[np.asarray(picture)])


def _open(data: bytes, max_pixels: int, name: str) -> tuple[ImageFile.ImageFile, int]:
    """Open a picture within the limit, without decoding it -> picture, EXIF orientation."""
    form = _sniff(data)
    if form is None:
        start = data[:16]
        raise InvalidImage(
            f"{name}: not an image; got {len(data)} bytes that begin with {start!r}. "
            f"Expected one of {', '.join(FORMATS)}"
        )
    if form == "WEBP":
        # Check before Pillow opens the file, because libwebp then allocates the canvas.
        check_size(*_webp_size(data), max_pixels, name)
    if data[:2] in _PLAIN and len(data) > _MAX_PLAIN:
        raise InvalidImage(
            f"{name}: got a plain PPM file of {len(data)} bytes, which takes long to read; "
            f"expected at most {_MAX_PLAIN}, or a binary one (P4, P5 or P6)"
        )
    picture = _plugin(form)(_Pieces(data, name))
    check_size(*_stored_size(picture), max_pixels, name)
    if form == "PNG" and "exif" not in picture.info:
        late = _png_chunk(data, b"eXIf")
        if late is not None:
            picture.info["exif"] = b"Exif\x00\x00" + late
    return picture, orientation_of(picture)


class _Pieces(io.BytesIO):
    """A file that is read in a limited number of pieces. Raises `InvalidImage` above it.

    Pillow reads each part of a file in Python. A file of parts without content would keep the
    interpreter busy for 0.2 s per MiB.
    """

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self._name, self._left = name, _MAX_PIECES

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise InvalidImage(
                f"{self._name}: the file has too many parts (segments, chunks or blocks); save the "
                "picture again with another program"
            )
        return super().read(size)


def _sniff(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((form for magic, form in _MAGIC if data.startswith(magic)), None)


def _plugin(form: str) -> type[ImageFile.ImageFile]:
    """Pillow's class for a format. Imported on first use to keep `import ois_client` fast."""
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    class Tiff(TiffImagePlugin.TiffImageFile):
        def load_prepare(self) -> None:
            # Allocating here avoids the check of Pillow's global limit.
            tile_size = getattr(self, "_tile_size", None)
            if tile_size is not None and self._im is None:
                self.im = Image.core.new(self.mode, tile_size)
            super().load_prepare()

    plugins: dict[str, type[ImageFile.ImageFile]] = {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "TIFF": Tiff,
        "GIF": GifImagePlugin.GifImageFile,
        "PPM": PpmImagePlugin.PpmImageFile,
    }
    return plugins[form]


def _stored_size(picture: Image.Image) -> tuple[int, int]:
    """Size as stored in the file. Newer versions of Pillow report the upright size of TIFFs."""
    size: tuple[int, int] = getattr(picture, "_tile_size", picture.size)
    return size


def _upright_size(picture: Image.Image, orientation: int) -> tuple[int, int]:
    width, height = _stored_size(picture)
    return (height, width) if orientation >= 5 else (width, height)


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the first chunk of a lossy, lossless or extended WebP file."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X" and len(body) == 10:
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8L" and len(body) == 10:
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(body) == 10:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", body[6:10]))
    else:
        raise InvalidImage(f"the WebP file begins with the chunk {kind!r}; it is damaged")
    return width, height


def _png_chunk(data: bytes, kind: bytes) -> bytes | None:
    """The first chunk of this kind in a PNG file. EXIF may come after the pixels."""
    at = 8
    for _ in range(_MAX_PIECES):
        if at + 8 > len(data):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == kind:
            return data[at + 8 : at + 8 + length]
        at += length + 12
    return None


@contextmanager
def _invalid_image(name: str) -> Iterator[None]:
    try:
        yield
    except OISError:
        raise
    except Exception as error:  # decoders raise every built-in type on damaged files
        raise InvalidImage(
            f"{name}: the image is truncated or damaged and cannot be decoded "
            f"({type(error).__name__}: {error}); export it again"
        ) from error
