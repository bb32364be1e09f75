"""Reads the files in a Qt resource file (.rcc), which Qt's `rcc --binary` writes.

All numbers are big-endian. The header is `qres`, the version (1 to 3), and the offsets of three
tables. The tree has nodes of one size; node 0 is the root folder. A node has the offset of its
name (u32) and flags (u16). A folder has then the number of its children and the index of the first
one (u32 each). A file has then its country and language (u16 each) and the offset of its data
(u32). From version 2 on, every node ends with a time (u64). A name is its length (u16), a hash
(u32), and UTF-16. Data are their size (u32) and the bytes. Compressed bytes begin with the size of
the content (u32), as qCompress writes it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from ois_client.contract.errors import InvalidInput

_ZLIB, _FOLDER, _ZSTD = 1, 2, 4  # flags of a node
_LARGEST = 2**28  # bytes of one file's content, so that a damaged file cannot fill the memory


class ResourceFile:
    """The files in `data`, the bytes of a .rcc file.

    Raises `InvalidInput` if the bytes are not such a file, or if its tables are damaged.
    """

    def __init__(self, data: bytes) -> None:
        if data[:4] != b"qres":
            raise InvalidInput(
                f"got a file that begins with {data[:4]!r}; expected b'qres', a Qt resource file"
            )
        self._data = data
        version, self._tree, self._contents, self._names = self._unpack(">4I", 4)
        if not 1 <= version <= 3:
            raise InvalidInput(f"got a Qt resource file of version {version}; expected 1, 2 or 3")
        self._node_bytes = 14 if version == 1 else 22
        self._files = dict(self._walk())

    def names(self) -> list[str]:
        """The paths of all files, such as `pictures/bee.webp`, in the order of the tree."""
        return list(self._files)

    def read(self, name: str) -> bytes:
        """The content of the file `name`.

        Raises `InvalidInput` if there is no such file, or if it is damaged or compressed with
        zstd, which Python cannot read.
        """
        if name not in self._files:
            raise InvalidInput(
                f"{name!r} is not in the Qt resource file, which has {len(self._files)} files"
            )
        flags, start = self._files[name]
        (size,) = self._unpack(">I", start)
        stored = self._data[start + 4 : start + 4 + size]
        if len(stored) < size:
            raise InvalidInput(f"{name!r} in the Qt resource file is cut off")
        if flags & _ZSTD:
            raise InvalidInput(
                f"{name!r} in the Qt resource file is compressed with zstd; expected zlib or none"
            )
        return _uncompressed(name, stored) if flags & _ZLIB else stored

    def _walk(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Each file's path with its flags and the position of its data."""
        seen = {0}  # a folder that contains itself would never end
        open_nodes = [(0, "")]
        while open_nodes:
            node, path = open_nodes.pop()
            at = self._tree + node * self._node_bytes
            name_at, flags, first, second = self._unpack(">IHII", at)
            if node:
                path = f"{path}/{self._name(name_at)}".lstrip("/")
            if not flags & _FOLDER:
                yield path, (flags, self._contents + second)
                continue
            children = range(second, second + min(first, len(self._data)))
            if not seen.isdisjoint(children):
                raise InvalidInput("the Qt resource file is damaged: a node has two parents")
            seen.update(children)
            open_nodes.extend((child, path) for child in reversed(children))

    def _name(self, offset: int) -> str:
        at = self._names + offset
        (length,) = self._unpack(">H", at)
        return self._data[at + 6 : at + 6 + 2 * length].decode("utf-16-be", "replace")

    def _unpack(self, form: str, at: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(form, self._data, at)
        except struct.error as error:
            raise InvalidInput(
                f"the Qt resource file is damaged: it has {len(self._data)} bytes, and a table "
                f"refers to byte {at}"
            ) from error


def _uncompressed(name: str, stored: bytes) -> bytes:
    size = int.from_bytes(stored[:4], "big")
    if size > _LARGEST:
        raise InvalidInput(f"{name!r} in the Qt resource file has {size} bytes, more than 2^28")
    try:
        content = zlib.decompressobj().decompress(stored[4:], size + 1)
    except zlib.error as error:
        raise InvalidInput(f"{name!r} in the Qt resource file is damaged: {error}") from error
    if len(content) != size:
        raise InvalidInput(
            f"{name!r} in the Qt resource file has {len(content)} bytes; expected {size}"
        )
    return content
