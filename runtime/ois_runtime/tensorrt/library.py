"""TensorRT's Python package: found, new enough, and only loaded where a driver is."""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from ois_client.contract.errors import EngineError
from ois_runtime.gpu_driver import Gpu, probe

OLDEST = (10, 12)
#: TensorRT 11 is made for CUDA 13, 10 for CUDA 12: an older driver cannot run it.
NEEDS_CUDA = {10: 12, 11: 13}
OLDEST_SM = 75

# The image of NVIDIA's Triton has the libraries; from PyPI come the bindings alone, under
# their own name.
_PACKAGES = ("tensorrt", "tensorrt_bindings")


def load_tensorrt(index: int = 0) -> tuple[Any, Gpu]:
    """The module and GPU `index`. Raises `EngineError` when one is missing or they do not fit.

    The driver is asked first (see `cuda_driver`).
    """
    gpu = probe(index)
    library = _import()
    check_versions(library, gpu)
    return library, gpu


def check_versions(library: Any, gpu: Gpu) -> None:
    """Raise `EngineError` unless this TensorRT is known to us and runs on this GPU."""
    version = library.__version__
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST:
        raise EngineError(
            f"got TensorRT {version}; expected {OLDEST[0]}.{OLDEST[1]} or newer, which type "
            "engines as the graph is typed. Use NVIDIA's Triton image 26.07 or newer"
        )
    if major not in NEEDS_CUDA:
        raise EngineError(f"got TensorRT {version}; this version of ois knows 10.12 to 11")
    if gpu.driver_cuda[0] < NEEDS_CUDA[major]:
        raise EngineError(
            f"TensorRT {version} needs a driver for CUDA {NEEDS_CUDA[major]}; the driver here "
            f"ends at {gpu.driver_cuda[0]}.{gpu.driver_cuda[1]}. Update the driver, or use an "
            "older image"
        )
    if gpu.sm < OLDEST_SM:
        raise EngineError(
            f"got {gpu.name} of compute capability {gpu.sm / 10}; TensorRT {version} needs "
            f"{OLDEST_SM / 10} (Turing) or newer. ONNX engines run here: --target cuda"
        )


def machine_key(gpu: Gpu, tensorrt: str) -> str:
    """What a plan depends on besides its model: `nvidia_h100_80gb_hbm3-sm90-tensorrt11.4.0.106`."""
    return "-".join(
        re.sub(r"[^a-z0-9.]+", "_", part.lower()).strip("._") or "unknown"
        for part in (gpu.name, f"sm{gpu.sm}", f"tensorrt{tensorrt}")
    )


def plan_key(gpu: Gpu, tensorrt: str, model_sha256: str) -> str:
    """The folder's name: `machine_key` and the beginning of the model's digest."""
    return f"{machine_key(gpu, tensorrt)}-{model_sha256[:16]}"


def _import() -> ModuleType:
    reasons = []
    for package in _PACKAGES:
        try:
            return importlib.import_module(package)
        except ImportError as error:
            reasons.append(f"{package}: {error}")
    raise EngineError(
        f"TensorRT cannot be imported ({'; '.join(reasons)}). NVIDIA's Triton image has its "
        "libraries; pip install tensorrt-cu13-bindings of the same version adds the bindings"
    )
