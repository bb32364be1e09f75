"""Memory on the GPU and a stream, through CUDA's own Python bindings.

Not through torch: the serving image has none, and TensorRT needs no more than this.
"""

from __future__ import annotations

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
