"""A picture in shared memory of this machine, for a server on the same one."""

from __future__ import annotations

import secrets
from types import TracebackType

from ois_client.contract.errors import OISError


class SharedBytes:
    """Bytes that another process can map; gone after the `with` block.

    Raises `OISError` when there is no memory left.
    """

    def __init__(self, data: bytes) -> None:
        from multiprocessing.shared_memory import SharedMemory

        try:
            self._memory = SharedMemory(create=True, size=len(data))
        except OSError as error:
            raise OISError(f"no shared memory for {len(data)} bytes: {error}") from error
        buffer = self._memory.buf
        if buffer is not None:  # it is None only after close()
            buffer[: len(data)] = data
        self.size = len(data)
        #: what the server calls the region
        self.region = f"ois-{secrets.token_hex(8)}"
        #: what the operating system calls it
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
