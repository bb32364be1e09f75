"""What this machine has: processor, memory, disk, GPU driver. Reads, never loads a toolkit."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

_GIB = 2**30

#: /proc/cpuinfo flag -> what it is called where engines are configured.
_CPU_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "bf16": "Arm bf16",
}
_NATIVE_BF16 = frozenset({"AVX-512 bf16", "AMX bf16", "Arm bf16"})


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor. threads: what this process may use, cgroup limits included."""

    model: str
    features: tuple[str, ...]
    threads: int

    @property
    def native_bf16(self) -> bool:
        """Whether bf16 arithmetic is done in hardware; emulated it is slower than fp32."""
        return not _NATIVE_BF16.isdisjoint(self.features)


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the NVIDIA driver says. problem: why no GPU can be used, None when one can."""

    devices: tuple[str, ...] = ()
    cuda: str | None = None
    problem: str | None = None


def cpu() -> Cpu:
    fields = _cpuinfo()
    flags = set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    features = tuple(name for flag, name in _CPU_FEATURES.items() if flag in flags)
    model = fields.get("model name") or platform.processor() or platform.machine()
    return Cpu(model, features, _threads())


def memory_gib() -> tuple[float, float] | None:
    """(usable, free) GiB, a container's limit included; None where the system does not say."""
    text = _read(Path("/proc/meminfo"))
    if text is None:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if ":" in line}
    total, free = kib["MemTotal"] / 2**20, kib.get("MemAvailable", kib["MemFree"]) / 2**20
    limit = _read(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and limit.strip().isdigit():
        used = int(_read(Path("/sys/fs/cgroup/memory.current")) or 0)
        total = min(total, int(limit) / _GIB)
        free = min(free, (int(limit) - used) / _GIB)
    return total, free


def free_disk_gib(folder: Path) -> float:
    return shutil.disk_usage(folder).free / _GIB


def gpu() -> Gpu:
    """Ask the CUDA driver itself: a toolkit's import can crash where the driver is broken."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return Gpu(problem=f"no NVIDIA driver ({name} not found)")
    status = driver.cuInit(0)
    if status != 0:
        return Gpu(problem=f"the NVIDIA driver does not start (cuInit gave {status})")
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    driver.cuDeviceGetCount(ctypes.byref(count))
    if count.value == 0:
        return Gpu(cuda=cuda, problem="the NVIDIA driver sees no GPU")
    return Gpu(tuple(_device_name(driver, index) for index in range(count.value)), cuda)


def _device_name(driver: ctypes.CDLL, index: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")


def _threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        threads = len(os.sched_getaffinity(0))
    else:
        threads = os.cpu_count() or 1
    quota = (_read(Path("/sys/fs/cgroup/cpu.max")) or "max").split()
    if quota and quota[0].isdigit():
        threads = min(threads, max(1, int(quota[0]) // int(quota[1])))
    return threads


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields; empty where the system has no /proc."""
    first = (_read(Path("/proc/cpuinfo")) or "").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
