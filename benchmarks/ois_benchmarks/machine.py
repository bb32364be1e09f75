"""Describe this machine: processor, memory, disk, GPU and versions.

Results record it (`describe`), and `ois doctor` shows it. No toolkit is imported: PyTorch takes
seconds, and one that does not match the driver can end the process.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ois_client.contract.errors import EngineError
from ois_runtime import gpu_driver

#: By default glibc returns large blocks to the kernel and faults them in again for every tensor,
#: which can double the time of a click. All contestants run with this setting, and results
#: record it.
ALLOCATOR_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "67108864",
}

_GIB = 2**30
_PACKAGES = (
    *("torch", "onnxruntime", "openvino", "onnx", "numpy", "pillow", "tritonclient"),
    *("nvidia-pytriton", "ois-deploy", "triton", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("tensorrt", "onnxruntime-gpu"),
)
#: Flags of /proc/cpuinfo that results record.
_RECORDED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
#: Flag of /proc/cpuinfo -> name that people know.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "bf16": "Arm bf16",
}
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor. flags: its instruction sets, named as in /proc/cpuinfo."""

    model: str
    flags: frozenset[str]

    @property
    def features(self) -> tuple[str, ...]:
        """Instruction sets that matter for inference, by the names that people know."""
        return tuple(name for flag, name in _FEATURES.items() if flag in self.flags)

    @property
    def native_bf16(self) -> bool:
        """Whether bf16 arithmetic runs in hardware. Emulated, it is slower than fp32."""
        return not _BF16_FLAGS.isdisjoint(self.flags)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, within the limit of the container. available: what can be allocated now."""

    total_bytes: int
    available_bytes: int


def cpu() -> Cpu:
    """The first processor of this machine."""
    fields = _cpuinfo()
    flags = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    model = fields.get("model name") or platform.processor() or platform.machine()
    return Cpu(model, frozenset(flags))


def available_cores() -> int:
    """Cores that this process may use, within the limit of the container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = (_read("/sys/fs/cgroup/cpu.max") or "max").split()
    if quota and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def memory() -> Memory | None:
    """The memory of this machine or container; None if the system does not report it."""
    text = _read("/proc/meminfo")
    if text is None:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if ":" in line}
    total = kib["MemTotal"] * 1024
    available = kib["MemAvailable"] * 1024
    limit = (_read("/sys/fs/cgroup/memory.max") or "").strip()
    if limit.isdigit():
        total = min(total, int(limit))
        available = max(0, min(available, int(limit) - _container_bytes()))
    return Memory(total, available)


def free_disk_bytes(folder: Path) -> int:
    """Free bytes of the file system that holds `folder`."""
    return shutil.disk_usage(folder).free


def gpus() -> list[gpu_driver.Gpu]:
    """All GPUs, as NVIDIA's driver reports them.

    Raises `EngineError` if there is no driver or no GPU; the message says which.
    """
    found = [gpu_driver.probe()]
    while True:
        try:
            found.append(gpu_driver.probe(len(found)))
        except EngineError:  # the driver counts no further
            return found


def peak_memory_bytes() -> int:
    """The largest resident size that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe() -> dict[str, Any]:
    """The machine as recorded in every result, JSON-ready.

    Contains no host name and no path. Without a GPU there are no keys about one.
    """
    processor, has = cpu(), memory()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": processor.model,
        "cpu_flags": [flag for flag in _RECORDED_FLAGS if flag in processor.flags],
        "cores": available_cores(),
        "memory_gib": round(has.total_bytes / _GIB, 1) if has else None,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        **describe_gpu(),
        "versions": _versions(),
        "allocator": {name: os.environ.get(name) for name in ALLOCATOR_ENVIRONMENT},
    }


def describe_gpu() -> dict[str, Any]:
    """The first GPU, JSON-ready; empty without one."""
    try:
        gpu = gpu_driver.probe()
    except EngineError:
        return {}
    return {
        "gpu": gpu.name,
        "gpu_memory_gib": round(gpu.memory_bytes / _GIB, 1),
        "gpu_capability": f"{gpu.sm // 10}.{gpu.sm % 10}",
        "driver": _driver_version(),
        "driver_cuda": ".".join(map(str, gpu.driver_cuda)),
    }


def _driver_version() -> str | None:
    """The version of NVIDIA's driver, for example 580.159.04."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of this checkout; None outside one."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}{' with local changes' if changed else ''}"


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor; empty if the system has no /proc."""
    first = (_read("/proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _container_bytes() -> int:
    """Bytes that the container uses, without the file cache that the kernel can drop."""
    used = int(_read("/sys/fs/cgroup/memory.current") or 0)
    for line in (_read("/sys/fs/cgroup/memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            used -= int(value)
    return used


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
