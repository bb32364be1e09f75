"""Passes a picture to a server on the same machine through shared memory."""

from __future__ import annotations

import secrets
from types import TracebackType

from ois_client.contract.errors import OISError


class SharedBytes:
    """Bytes that another process can map. The `with` block removes them at its end.

    Raises `OISError` if the memory cannot be allocated.
    """

    def __init__(self, data: bytes) -> None:
        from multiprocessing.shared_memory import SharedMemory

        try:
            self._memory = SharedMemory(create=True, size=len(data))
        except OSError as error:
            raise OISError(
                f"cannot allocate {len(data)} bytes of shared memory: {error}"
            ) from error
        buffer = self._memory.buf
        if buffer is not None:  # it is None only after close()
            buffer[: len(data)] = data
        self.size = len(data)
        #: the name of the region in requests to the server
        self.region = f"ois-{secrets.token_hex(8)}"
        #: its name in the operating system
        self.key = f"/{self._memory.name.lstrip('/')}"

    def __enter__(self) -> SharedBytes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._memory.close()
        self._memory.unlink()
