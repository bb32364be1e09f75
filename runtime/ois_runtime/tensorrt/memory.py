"""Memory on the GPU and a stream, through CUDA's own Python bindings.

Not through torch: the serving image has none, and TensorRT needs no more than this.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError


class DeviceMemory(Protocol):
    """Buffers by address and one stream that all work goes to, in order."""

    #: What TensorRT takes as the stream's handle.
    stream: int

    def use(self) -> None:
        """Make this GPU the calling thread's."""
        ...

    def allocate(self, nbytes: int) -> int: ...

    def free(self, address: int) -> None: ...

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy a contiguous array to `address`; it may change afterwards."""
        ...

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Fill a contiguous array from `address`, after all work before."""
        ...

    def close(self) -> None:
        """End the stream. Buffers are freed by who allocated them."""
        ...


class CudaMemory:
    """`DeviceMemory` of GPU `index`."""

    def __init__(self, index: int = 0) -> None:
        """Raises `EngineError` when the bindings are missing or CUDA does not start."""
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineError(
                f"the package cuda-bindings cannot be imported here ({error}). Install it with: "
                "pip install 'ois-deploy[tensorrt]'"
            ) from error
        self._cuda: Any = runtime
        self._index = index
        self.use()
        self._stream = self._call("cudaStreamCreate")
        self.stream = int(self._stream)

    def use(self) -> None:
        self._call("cudaSetDevice", self._index)

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cudaMalloc", max(nbytes, 1)))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        # From pageable memory CUDA returns once the source was read.
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, function: str, *arguments: object) -> Any:
        """Each function returns a tuple: an error code, then what it gives."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if int(status) != 0:
            said = self._cuda.cudaGetErrorString(status)[1].decode(errors="replace")
            raise EngineError(f"{function} failed: {said} (CUDA error {int(status)})")
        return results[0] if results else None


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
