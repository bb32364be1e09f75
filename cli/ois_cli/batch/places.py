"""Where the images and lines of a batch are: files, folders and object stores.

A place is a path, or an address that pyarrow's file systems open: `s3://bucket/photos`, `gs://`,
`abfs://`, `hdfs://` or `file://`. Options of the file system follow a question mark, as in
`s3://bucket/photos?region=eu-north-1`. Special characters of an address are percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.images import DEFAULT_LIMITS

#: Suffixes that folders are searched for. A file that is named is always used.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".mpo"),
)
#: Suffixes of files with one record per line or row.
LIST_SUFFIXES = (".jsonl", ".parquet")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_address(place: str) -> bool:
    """Whether a place is an address and not a path."""
    return _ADDRESS.match(place) is not None


def suffix_of(place: str) -> str:
    """The suffix of a place's last name, in lower case, for example ".jpg"."""
    return Path(_parts(place)[1] if is_address(place) else place).suffix.lower()


def join(folder: str, name: str) -> str:
    """The place `name` below `folder`; `name` itself if it is absolute."""
    if is_address(name):
        return name
    if not is_address(folder):
        return str(Path(folder) / name)
    base, mark, query = folder.partition("?")
    return f"{base.rstrip('/')}/{quote(name.lstrip('/'))}{mark}{query}"


def parent(place: str) -> str:
    """The folder of a file."""
    if not is_address(place):
        return str(Path(place).parent)
    base, mark, query = place.partition("?")
    return base.rpartition("/")[0] + mark + query


def source_of(place: str) -> str | bytes:
    """What `load_image` takes for a place. Raises `InvalidImage` if an address cannot be read."""
    if not is_address(place):
        return place
    return _read(place, InvalidImage, DEFAULT_LIMITS.max_bytes + 1)


def find_images(given: Sequence[str], *, recursive: bool) -> list[str]:
    """Return the given files and the images in the given folders, in order, each once.

    recursive: also search subfolders. Files are not opened. Raises `InvalidInput` if a folder has
    no image or cannot be read.
    """
    found: dict[str, str] = {}
    for place in given:
        inside = files_in(place, IMAGE_SUFFIXES, recursive=recursive)
        if inside is not None and not inside:
            deeper = "" if recursive else "; --recursive searches its subfolders"
            raise InvalidInput(
                f"got the folder {place} without an image; expected names that end in "
                f"{', '.join(IMAGE_SUFFIXES)}{deeper}"
            )
        for image in [place] if inside is None else inside:
            found.setdefault(image if is_address(image) else str(Path(image).resolve()), image)
    return list(found.values())


def files_in(place: str, suffixes: tuple[str, ...], *, recursive: bool = False) -> list[str] | None:
    """The files in a folder whose names end in one of the suffixes, sorted; None for a file.

    A path that does not exist counts as a file. Raises `InvalidInput` if a folder cannot be read
    or an address does not exist.
    """
    if is_address(place):
        return _files_at_address(place, suffixes, recursive)
    folder = Path(place)
    if not folder.is_dir():
        return None
    try:
        below = folder.rglob("*") if recursive else folder.iterdir()
        inside = sorted(p for p in below if p.suffix.lower() in suffixes and p.is_file())
    except OSError as error:
        raise InvalidInput(
            f"the folder {place} cannot be read: {error.strerror}; check its permissions"
        ) from error
    return [str(path) for path in inside]


def records(place: str) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
    """Yield (number from 1, record) of a list: the bytes of a JSON line, or a row of Parquet.

    Empty lines are left out but counted. Of a row, columns without a value are left out, so that a
    row is what the JSON of a line is. Raises `InvalidInput` if the list cannot be read.
    """
    if suffix_of(place) == ".parquet":
        yield from enumerate(_rows(place), start=1)
        return
    for number, line in enumerate(_read_list(place).split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _read_list(place: str) -> bytes:
    if is_address(place):
        return _read(place, InvalidInput)
    try:
        return Path(place).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{place} cannot be read: {error.strerror or error}; check the path"
        ) from error


def _rows(place: str) -> Iterator[dict[str, Any]]:
    from pyarrow import fs
    from pyarrow.parquet import ParquetFile

    system, path = _open(place) if is_address(place) else (fs.LocalFileSystem(), place)
    try:
        with system.open_input_file(path) as file:
            for batch in ParquetFile(file).iter_batches():
                yield from map(_without_nulls, batch.to_pylist())
    except (OSError, ValueError) as error:  # pyarrow's errors are built-in ones
        raise InvalidInput(
            f"{place} cannot be read as Parquet: {error}; check the file and the path"
        ) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def _read(place: str, kind: type[InvalidInput], most_bytes: int | None = None) -> bytes:
    system, path = _open(place)
    try:
        with system.open_input_stream(path, compression=None) as file:
            data: bytes = file.read(most_bytes)
            return data
    except (OSError, ValueError) as error:
        raise kind(f"{place} cannot be read: {error}; check the address") from error


def _files_at_address(place: str, suffixes: tuple[str, ...], recursive: bool) -> list[str] | None:
    from pyarrow import fs

    system, path = _open(place)
    try:
        if system.get_file_info(path).type == fs.FileType.File:
            return None
        inside = system.get_file_info(fs.FileSelector(path, recursive=recursive))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{place} cannot be listed: {error}; check the address") from error
    start = len(path.rstrip("/")) + 1
    names = (one.path[start:] for one in inside if one.type == fs.FileType.File)
    return [join(place, n) for n in sorted(names) if Path(n).suffix.lower() in suffixes]


def _open(place: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    root, path, query = _parts(place)
    try:
        system, base = _file_system(root, query)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{place} cannot be opened: {error}; check the address and the access to it"
        ) from error
    return system, f"{base.rstrip('/')}/{unquote(path)}".rstrip("/")


def _parts(place: str) -> tuple[str, str, str]:
    """(scheme and host or bucket, path, options) of an address."""
    base, _, query = place.partition("?")
    scheme, _, rest = base.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}/", path, query


@lru_cache(maxsize=64)
def _file_system(root: str, query: str) -> tuple[Any, str]:
    # Cached, because opening a bucket asks for its region.
    from pyarrow import fs

    found: tuple[Any, str] = fs.FileSystem.from_uri(f"{root}?{query}" if query else root)
    return found
