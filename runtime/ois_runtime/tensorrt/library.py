"""Loads TensorRT's Python package, and checks its version, the driver and the GPU."""

from __future__ import annotations

import ctypes
import importlib
import re
from types import ModuleType
from typing import Any

from ois_client.contract.errors import EngineError
from ois_runtime.gpu_driver import Gpu, probe

OLDEST = (10, 12)
#: TensorRT 11 needs a driver for CUDA 13, TensorRT 10 one for CUDA 12.
NEEDS_CUDA = {10: 12, 11: 13}
OLDEST_SM = 75

# `tensorrt` is the wheel with its libraries. NVIDIA's Triton image has the libraries without it, to
# which PyPI has the bindings.
_PACKAGES = ("tensorrt", "tensorrt_bindings")


def load_tensorrt(index: int = 0) -> tuple[Any, Gpu]:
    """Load the module and describe GPU `index`.

    The driver is checked before the import, because TensorRT crashes without one (`gpu_driver`).
    Raises `EngineError` if TensorRT, the driver or the GPU is missing or too old.
    """
    gpu = probe(index)
    library = _import()
    check_versions(library, gpu)
    return library, gpu


def check_versions(library: Any, gpu: Gpu) -> None:
    """Raise `EngineError` unless this TensorRT is supported and runs on this GPU."""
    version = library.__version__
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST:
        raise EngineError(
            f"got TensorRT {version}; expected {OLDEST[0]}.{OLDEST[1]} or newer, which takes the "
            "precision from the graph. Use NVIDIA's Triton image 26.07 or newer"
        )
    if major not in NEEDS_CUDA:
        raise EngineError(f"got TensorRT {version}; this version of ois supports 10.12 to 11")
    if gpu.driver_cuda[0] < NEEDS_CUDA[major]:
        raise EngineError(
            f"TensorRT {version} needs a driver for CUDA {NEEDS_CUDA[major]}; this driver "
            f"supports up to {gpu.driver_cuda[0]}.{gpu.driver_cuda[1]}. Update the driver, or use "
            "an older image"
        )
    if gpu.sm < OLDEST_SM:
        raise EngineError(
            f"got {gpu.name} of compute capability {gpu.sm / 10}; TensorRT {version} needs "
            f"{OLDEST_SM / 10} (Turing) or newer. Export for ONNX Runtime instead: --target cuda"
        )


def library_version(library: Any, file: str | None = None) -> str:
    """TensorRT's own version, such as `"11.4.0.106"`.

    `__version__` is the bindings', which may be another build of the same minor version. Plans
    belong to the library's build. file: the library; tests replace it. If it cannot be asked, the
    bindings' version is returned.
    """
    bindings: str = library.__version__
    try:
        loaded = ctypes.CDLL(file or f"libnvinfer.so.{bindings.partition('.')[0]}")
        parts = [
            getattr(loaded, f"getInferLib{part}Version")()
            for part in ("Major", "Minor", "Patch", "Build")
        ]
    except (OSError, AttributeError):
        return bindings
    return ".".join(map(str, parts))


def machine_key(gpu: Gpu, tensorrt: str) -> str:
    """A name of the GPU and TensorRT version, such as `nvidia_t4-sm75-tensorrt11.4.0.106`.

    A plan runs only on the GPU model and the TensorRT version that built it.
    """
    return "-".join(
        re.sub(r"[^a-z0-9.]+", "_", part.lower()).strip("._") or "unknown"
        for part in (gpu.name, f"sm{gpu.sm}", f"tensorrt{tensorrt}")
    )


def plan_key(gpu: Gpu, tensorrt: str, model_sha256: str) -> str:
    """The name of a folder with plans: `machine_key` and the start of the model's digest."""
    return f"{machine_key(gpu, tensorrt)}-{model_sha256[:16]}"


def _import() -> ModuleType:
    reasons = []
    for package in _PACKAGES:
        try:
            return importlib.import_module(package)
        except ImportError as error:
            reasons.append(f"{package}: {error}")
    raise EngineError(
        f"TensorRT cannot be imported ({'; '.join(reasons)}). Run pip install "
        "'ois-deploy[tensorrt]'. In NVIDIA's Triton image, which has the libraries, run pip "
        "install 'tensorrt-cu13-bindings==11.4.*', with the minor version of the libraries"
    )
