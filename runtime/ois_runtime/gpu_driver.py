"""Asks NVIDIA's driver which GPU is there, without importing anything that needs a driver.

Without a driver, TensorRT's runtime returns an object that crashes the process when it is released.
The driver's own library can be asked safely. It is opened with ctypes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ois_client.contract.errors import EngineError

LIBRARY = "libcuda.so.1"

_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and its driver.

    sm: compute capability, 90 for 9.0. driver_cuda: the newest CUDA version that the driver
    supports, such as (13, 1).
    """

    name: str
    sm: int
    memory_bytes: int
    driver_cuda: tuple[int, int]


def probe(index: int = 0, library: str | None = None) -> Gpu:
    """Describe GPU number `index`. Raises `EngineError` if there is no driver or no such GPU.

    library: the driver's library; tests replace it.
    """
    library = library or LIBRARY
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        raise EngineError(
            f"no NVIDIA driver: {library} cannot be loaded. Build and run TensorRT engines on the "
            "machine with the GPU, and start a container with --gpus all"
        ) from None
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        raise EngineError(
            "the NVIDIA driver finds no GPU. Start a container with --gpus all, and check "
            "CUDA_VISIBLE_DEVICES"
        )
    _check(driver, status, "start")
    count = _number(driver, "cuDeviceGetCount")
    if index >= count:
        raise EngineError(f"got GPU {index}; this machine has {count}, counted from 0")
    device = ctypes.c_int()
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), index), "open the GPU")
    name = ctypes.create_string_buffer(256)
    _check(driver, driver.cuDeviceGetName(name, len(name), device), "name the GPU")
    memory = ctypes.c_size_t()
    _check(driver, driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device), "size the GPU")
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        status = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        _check(driver, status, "describe the GPU")
        capability.append(value.value)
    version = _number(driver, "cuDriverGetVersion")  # 13010 is 13.1
    return Gpu(
        name.value.decode(errors="replace"),
        10 * capability[0] + capability[1],
        memory.value,
        (version // 1000, version % 1000 // 10),
    )


def _number(driver: ctypes.CDLL, function: str) -> int:
    value = ctypes.c_int()
    _check(driver, getattr(driver, function)(ctypes.byref(value)), function)
    return value.value


def _check(driver: ctypes.CDLL, status: int, what: str) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    said = text.value.decode(errors="replace") if text.value else "no explanation"
    raise EngineError(
        f"the NVIDIA driver failed to {what}: {said} (CUDA error {status}). Check that "
        "`nvidia-smi` works"
    )
