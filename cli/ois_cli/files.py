"""Checks output paths before a command does any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ois_client.contract.errors import InvalidInput, OutputError

#: Suffix -> Pillow's name of the format, for pictures that people look at.
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

#: Masks need a lossless format.
MASK_FORMATS = {".png": "PNG"}


def check_output(path: Path, formats: Mapping[str, str]) -> None:
    """Check that a file in one of `formats` can be written to `path`.

    formats: suffix -> name. Raises `InvalidInput` for another suffix, and `OutputError` if the
    folder is missing or not writable or `path` is a folder.
    """
    if path.suffix.lower() not in formats:
        raise InvalidInput(
            f"got the output {str(path)!r}; expected a name that ends in {', '.join(formats)}"
        )
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it, for example {path / 'out.png'}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist; create it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} is not writable; choose another one")


def check_distinct(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises `InvalidInput` if two outputs are the same file or an output is an input."""
    read = {path.resolve() for path in inputs}
    seen: set[Path] = set()
    for path in outputs:
        place = path.resolve()
        if place in read:
            raise InvalidInput(f"the output {path} is also an input; choose another name")
        if place in seen:
            raise InvalidInput(f"two outputs have the name {path}; give each its own name")
        seen.add(place)


def make_folder(path: Path) -> None:
    """Create `path` and its parents. Raises `OutputError` if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {path}: {error.strerror or error}") from error
