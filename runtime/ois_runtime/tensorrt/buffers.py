"""What a TensorRT engine holds in the GPU's memory: a buffer a name, and arrays that stay there."""

from __future__ import annotations

import contextlib
import weakref

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_runtime.tensorrt.memory import DeviceMemory


class DeviceBuffers:
    """Owns `memory`: `close` frees all that was allocated here, and ends its stream.

    Not locked, one thread at a time; the garbage collector may end a resident array in any.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._named: dict[str, tuple[int, int]] = {}  # name -> address, bytes
        self._resident: dict[int, int] = {}  # id of a read-only array -> address

    def named(self, name: str, nbytes: int) -> int:
        """The address of `name`'s buffer, of at least `nbytes`; it grows and is kept."""
        address, size = self._named.get(name, (0, -1))
        if size >= nbytes:
            return address
        if size >= 0:
            # Out of the table first: the allocation may fail, and nobody may meet this address.
            del self._named[name]
            self._memory.free(address)
        address = self._memory.allocate(nbytes)
        self._named[name] = (address, nbytes)
        return address

    def place(self, name: str, array: NDArray[np.generic]) -> int:
        """The address of `array`, copied there unless it already is.

        A read-only array stays for as long as it exists; any other is copied each time.
        """
        if array.flags.writeable or not array.flags.owndata:
            address = self.named(name, array.nbytes)
            self._memory.upload(address, array)
            return address
        known = self._resident.get(id(array))
        return self._keep(array) if known is None else known

    def close(self) -> None:
        """Twice is fine."""
        held = [address for address, _ in self._named.values()] + list(self._resident.values())
        self._named.clear()
        self._resident.clear()
        for address in held:
            with contextlib.suppress(EngineError):  # a device that failed frees nothing any more
                self._memory.free(address)
        with contextlib.suppress(EngineError):
            self._memory.close()

    def _keep(self, array: NDArray[np.generic]) -> int:
        address = self._memory.allocate(array.nbytes)
        try:
            self._memory.upload(address, array)
        except BaseException:
            self._memory.free(address)
            raise
        self._resident[id(array)] = address
        # Not when the process ends: that frees everything, and the driver may be gone by then.
        weakref.finalize(array, self._forget, id(array)).atexit = False
        return address

    def _forget(self, identity: int) -> None:
        """Its array is gone; after `close` there is nothing left to free."""
        address = self._resident.pop(identity, None)
        if address is not None:
            self._memory.free(address)
