"""GPU memory for TensorRT engines, through CUDA's Python bindings.

    CudaMemory      allocates, copies and frees on one stream
    DeviceBuffers   the buffers that one engine keeps
    DeviceArray     a result that stays on the GPU

PyTorch is only needed to see such a result as a tensor. Everything else works without it.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError

#: Alignment of each array in a block, in bytes, as of separate allocations.
_ALIGNMENT = 256


class DeviceMemory(Protocol):
    """Memory of a GPU by address, and one stream that runs all work in order."""

    #: The stream's handle for TensorRT.
    stream: int

    def use(self) -> None:
        """Select this GPU in the calling thread."""
        ...

    def allocate(self, nbytes: int) -> int: ...

    def free(self, address: int) -> None: ...

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy a contiguous array to `address`. The array may be changed when this returns."""
        ...

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Fill a contiguous array from `address`, after all earlier work of the stream."""
        ...

    def synchronize(self) -> None:
        """Wait for all earlier work of the stream."""
        ...

    def tensor(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """The memory at `address` as a PyTorch tensor on this GPU, without a copy."""
        ...

    def close(self) -> None:
        """Destroy the stream. Does not free memory."""
        ...


class CudaMemory:
    """`DeviceMemory` of GPU `index`."""

    def __init__(self, index: int = 0) -> None:
        """Raises `EngineError` if the bindings are missing or CUDA does not start."""
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
        # For pageable memory, CUDA returns after it has read the source.
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)
        self._call("cudaStreamSynchronize", self._stream)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def tensor(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        import torch

        return torch.as_tensor(_Exported(address, shape, dtype), device=f"cuda:{self._index}")

    def close(self) -> None:
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, function: str, *arguments: object) -> Any:
        """Call a function of the bindings. They return a tuple: an error code, then the results."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if int(status) != 0:
            said = self._cuda.cudaGetErrorString(status)[1].decode(errors="replace")
            raise EngineError(f"{function} failed: {said} (CUDA error {int(status)})")
        return results[0] if results else None


class _Exported:
    """Device memory, described as PyTorch and CuPy understand it."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        # Version 3 of the interface; no stream: the caller has waited for the data.
        self.__cuda_array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
            "stream": None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """An array in a GPU's memory. block: frees the memory when nothing refers to it any more."""

    memory: DeviceMemory
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block: object

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy in the CPU's memory."""
        array = np.empty(self.shape, self.dtype)
        self.memory.use()
        self.memory.download(array, self.address)
        return array

    def tensor(self) -> Any:
        """This memory as a PyTorch tensor. The caller keeps the array as long as the tensor."""
        return self.memory.tensor(self.address, self.shape, self.dtype)


class DeviceBlock:
    """One allocation for several arrays, freed when this object is garbage collected.

    One, because allocating and freeing wait for the GPU.
    """

    def __init__(self, memory: DeviceMemory, sizes: Mapping[str, int]) -> None:
        """sizes: bytes of each array."""
        offsets: dict[str, int] = {}
        total = 0
        for name, size in sizes.items():
            offsets[name] = total
            total += -(-size // _ALIGNMENT) * _ALIGNMENT
        address = memory.allocate(total)
        # Not at exit: the process's end frees everything, and the driver may be unloaded.
        weakref.finalize(self, _free, memory, address).atexit = False
        self.addresses = {name: address + offset for name, offset in offsets.items()}


def _free(memory: DeviceMemory, address: int) -> None:
    with contextlib.suppress(EngineError):  # nothing can be freed on a device that failed
        memory.use()
        memory.free(address)


class DeviceBuffers:
    """The GPU buffers of one engine: one per tensor name, and copies of read-only arrays.

    Owns `memory`: `close` frees all buffers and closes it. Only one thread may call at a time, but
    the garbage collector may free a resident array in any thread.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._named: dict[str, tuple[int, int]] = {}  # name -> address, bytes
        self._resident: dict[int, int] = {}  # id of a read-only array -> address

    def named(self, name: str, nbytes: int) -> int:
        """The address of the buffer called `name`, enlarged if it has less than `nbytes`."""
        address, size = self._named.get(name, (0, -1))
        if size >= nbytes:
            return address
        if size >= 0:
            # Removed first: the allocation may fail, and the freed address must not stay here.
            del self._named[name]
            self._memory.free(address)
        address = self._memory.allocate(nbytes)
        self._named[name] = (address, nbytes)
        return address

    def place(self, name: str, array: NDArray[np.generic]) -> int:
        """Copy `array` to the GPU and return its address there.

        A read-only array that owns its data is copied once and stays on the GPU as long as the
        array exists. Other arrays are copied each time into the buffer called `name`.
        """
        if array.flags.writeable or not array.flags.owndata:
            address = self.named(name, array.nbytes)
            self._memory.upload(address, array)
            return address
        known = self._resident.get(id(array))
        return self._keep(array) if known is None else known

    def close(self) -> None:
        """Free everything. Can be called twice."""
        held = [address for address, _ in self._named.values()] + list(self._resident.values())
        self._named.clear()
        self._resident.clear()
        for address in held:
            with contextlib.suppress(EngineError):  # nothing can be freed on a device that failed
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
        # Not at exit: the process's end frees everything, and the driver may be unloaded.
        weakref.finalize(array, self._forget, id(array)).atexit = False
        return address

    def _forget(self, identity: int) -> None:
        """Free the copy of an array that no longer exists, unless `close` already did."""
        address = self._resident.pop(identity, None)
        if address is not None:
            self._memory.free(address)
