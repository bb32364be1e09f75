"""Pictures: any form of an image that a user has, as the bytes that are sent.

The client does not decode files: it reads size and orientation from the header, and the server
decodes the same bytes. `Picture.digest` identifies the content and is the key of its features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract import decoding
from ois_client.contract.errors import InvalidImage, OISError

ImageSource = str | Path | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Limits of `load_image`, checked before anything is decoded."""

    max_pixels: int = 2**28
    #: size of the encoded file or of the raw array
    max_bytes: int = 2**30


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class Picture:
    """One image in the form in which it is sent. `load_image` creates it and checks its fields.

    data: the encoded file, byte for byte; for format "raw", samples (H, W, C) uint8 in row-major
    order, where C = len(data) / (width * height) is 3 (RGB) or 1 (grey).
    width, height: pixels after EXIF orientation. A raw picture is already upright.
    digest: hexadecimal sha256 of the format, the raw shape and `data`.
    """

    data: bytes = field(repr=False)
    format: Literal["encoded", "raw"]
    width: int
    height: int
    digest: str

    def pixels(self) -> NDArray[np.uint8]:
        """Decode the picture -> (H, W, 3) uint8 RGB after EXIF orientation, read-only.

        Nothing is cached. Raises `InvalidImage` if the pixel data is truncated or damaged.
        """
        if self.format == "encoded":
            pixels = decoding.decode(self.data, self.width * self.height, "image")
        else:
            samples = np.frombuffer(self.data, dtype=np.uint8)
            samples = samples.reshape(self.height, self.width, -1)
            pixels = np.broadcast_to(samples, (self.height, self.width, 3))
        pixels = np.ascontiguousarray(pixels)
        pixels.flags.writeable = False
        return pixels


def load_image(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Make a `Picture` of a path, encoded bytes, a PIL image or an array. Thread-safe.

    source: an array is uint8, (H, W, 3) RGB or (H, W) grey. Files and bytes stay encoded. A PIL
    image is decoded, turned upright by its EXIF orientation and sent raw, as an array is.

    Raises `InvalidImage` if the file does not exist or is empty, its format is not in
    `decoding.FORMATS`, its header is truncated, a limit is exceeded, or an array has another
    shape or type. Damaged pixel data is only found by `Picture.pixels`.
    """
    if isinstance(source, str | Path):
        return _encoded(_read(Path(source), limits), f"image {str(source)!r}", limits)
    if isinstance(source, bytes | bytearray | memoryview):
        return _encoded(bytes(source), "image bytes", limits)
    if isinstance(source, Image.Image):
        return _raw(_pixels_of(source, limits), limits)
    if isinstance(source, np.ndarray):
        return _raw(source, limits)
    raise InvalidImage(
        f"got an image of type {type(source).__name__}; expected a path, encoded bytes, a PIL "
        "image, or a uint8 array (H, W, 3) or (H, W)"
    )


def _read(path: Path, limits: ImageLimits) -> bytes:
    try:
        if not path.is_file():
            problem = "is not a file" if path.exists() else "does not exist"
            raise InvalidImage(f"image {str(path)!r} {problem}; expected the path of an image")
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        raise InvalidImage(f"image {str(path)!r} cannot be read: {error}") from error


def _encoded(data: bytes, name: str, limits: ImageLimits) -> Picture:
    if not data:
        raise InvalidImage(f"{name}: got 0 bytes; expected an encoded image")
    if len(data) > limits.max_bytes:
        raise InvalidImage(
            f"{name}: more than the limit of {limits.max_bytes} bytes; scale the image down, "
            "or raise ImageLimits(max_bytes=...)"
        )
    width, height = decoding.read_size(data, limits.max_pixels, name)
    digest = hashlib.sha256(b"encoded:")
    digest.update(data)
    return Picture(data, "encoded", width, height, digest.hexdigest())


def _pixels_of(picture: Image.Image, limits: ImageLimits) -> NDArray[np.uint8]:
    name = f"PIL image of mode {picture.mode}"
    decoding.check_size(*picture.size, limits.max_pixels, name)
    try:
        picture.load()
        return np.asarray(
            decoding.upright(decoding.to_rgb(picture), decoding.orientation_of(picture))
        )
    except OISError:
        raise
    except Exception as error:  # decoders raise every built-in type on a damaged file
        raise InvalidImage(
            f"{name}: cannot be decoded ({type(error).__name__}: {error})"
        ) from error


def _raw(array: NDArray[np.generic], limits: ImageLimits) -> Picture:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
    ):
        raise InvalidImage(
            f"got an array of shape {array.shape} and type {array.dtype}; expected uint8, "
            "(H, W, 3) in RGB order or (H, W) grey, values 0..255"
        )
    height, width = array.shape[:2]
    decoding.check_size(width, height, limits.max_pixels, "image array")
    if array.nbytes > limits.max_bytes:
        raise InvalidImage(
            f"got an array of {array.nbytes} bytes; the limit is {limits.max_bytes}. Scale the "
            "image down, or raise ImageLimits(max_bytes=...)"
        )
    data = array.tobytes()
    digest = hashlib.sha256(f"raw:{height}x{width}x{array.size // (width * height)}:".encode())
    digest.update(data)
    return Picture(data, "raw", width, height, digest.hexdigest())
