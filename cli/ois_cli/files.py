"""Checks of output paths, made before any work. Results are then written by `write_files`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ois_client.contract.errors import InvalidInput, OutputError

#: Suffix -> Pillow's name of the format, for pictures a person looks at.
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

#: A mask must come back pixel for pixel, so only a lossless format will do.
MASK_FORMATS = {".png": "PNG"}


def check_output(path: Path, formats: Mapping[str, str]) -> None:
    """Raise before any work when `path` cannot become a file of one of `formats`.

    `InvalidInput` for an unknown suffix, `OutputError` for a missing or unwritable folder.
    """
    if path.suffix.lower() not in formats:
        raise InvalidInput(
            f"got the output {str(path)!r}; expected a name that ends in {', '.join(formats)}"
        )
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it, for example {path / 'out.png'}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist; make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} is not writable; choose another one")


def check_distinct(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise `InvalidInput` when two outputs are one file, or an output would replace an input."""
    read = {path.resolve() for path in inputs}
    seen: set[Path] = set()
    for path in outputs:
        place = path.resolve()
        if place in read:
            raise InvalidInput(f"the output {path} is the input image; choose another name")
        if place in seen:
            raise InvalidInput(f"{path} is named for two outputs; give each its own name")
        seen.add(place)


def make_folder(path: Path) -> None:
    """Make `path` and its parents. Raises `OutputError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error
