"""What a measurement was taken on: processor, memory, GPU, versions, commit, allocator."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ois_client.contract.errors import EngineError
from ois_runtime.tensorrt import driver

#: glibc returns big blocks to the kernel and faults them in again at every tensor: up to 2x of
#: a click. All contestants run with the same setting, and it is recorded.
ALLOCATOR_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "67108864",
}

_PACKAGES = (
    *("torch", "onnxruntime", "openvino", "onnx", "numpy", "pillow", "tritonclient"),
    *("nvidia-pytriton", "ois-deploy", "triton", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("tensorrt", "onnxruntime-gpu"),
)
_INTERESTING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")


def describe() -> dict[str, Any]:
    """JSON-ready; holds no host name and no path. Without a GPU there are no keys about one."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [f for f in _INTERESTING_FLAGS if f in _cpuinfo("flags").split()],
        "cores": available_cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        **describe_gpu(),
        "versions": _versions(),
        "allocator": {name: os.environ.get(name) for name in ALLOCATOR_ENVIRONMENT},
    }


def describe_gpu() -> dict[str, Any]:
    """The first GPU, asked of its driver: PyTorch takes seconds to import, and may not be here."""
    try:
        gpu = driver.probe()
    except EngineError:
        return {}
    return {
        "gpu": gpu.name,
        "gpu_memory_gib": round(gpu.memory_bytes / 2**30, 1),
        "gpu_capability": f"{gpu.sm // 10}.{gpu.sm % 10}",
        "driver": _driver(),
        "driver_cuda": ".".join(map(str, gpu.driver_cuda)),
    }


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """The largest resident size this process ever had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _driver() -> str | None:
    """The driver's version, such as 580.159.04."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _commit() -> str | None:
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


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
