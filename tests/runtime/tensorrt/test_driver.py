"""The driver is checked before TensorRT is imported, and every failure has a clear message.

The driver is a small library with the real one's functions. CUDA's bindings are the real ones, on a
machine without a GPU.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ois_client.contract.errors import EngineError
from ois_runtime import gpu_driver
from ois_runtime.gpu_driver import Gpu, probe
from ois_runtime.tensorrt.library import check_versions, library_version, load_tensorrt
from ois_runtime.tensorrt.memory import CudaMemory
from support.tensorrt.fake import APIS, FakeTensorRT

DRIVER = r"""
#include <stddef.h>
#include <string.h>
int cuInit(unsigned int flags) { return flags ? 1 : INIT; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device == 41 ? "NVIDIA Second" : "NVIDIA First", length);
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 80ul << 30; return device < 40; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
  return device < 40;
}
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuGetErrorString(int error, const char **text) {
  *text = error == 802 ? "system not yet initialized" : NULL;
  return 0;
}
"""


def driver(folder: Path, init: int = 0) -> str:
    """Compile a libcuda.so.1 whose cuInit returns `init`."""
    return compiled(folder, "libcuda.so.1", DRIVER, f"-DINIT={init}")


def compiled(folder: Path, name: str, source: str, *options: str) -> str:
    """Compile a shared library and return its path."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    (folder / f"{name}.c").write_text(source)
    library = folder / name
    words = [compiler, "-shared", "-fPIC", *options, "-o", str(library)]
    subprocess.run([*words, str(folder / f"{name}.c")], check=True)
    return str(library)


def test_a_gpu_is_described(tmp_path: Path) -> None:
    library = driver(tmp_path)
    assert probe(0, library) == Gpu("NVIDIA First", 90, 80 * 2**30, (13, 1))
    assert probe(1, library).name == "NVIDIA Second"
    with pytest.raises(EngineError, match="got GPU 2; this machine has 2, counted from 0"):
        probe(2, library)


@pytest.mark.parametrize(
    ("init", "says"),
    [
        (100, "finds no GPU.*--gpus all"),
        (802, r"failed to start: system not yet initialized \(CUDA error 802\)\. .*`nvidia-smi`"),
        (999, "no explanation"),
    ],
)
def test_a_driver_that_does_not_start_says_why(init: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=says):
        probe(0, driver(tmp_path, init))


def test_a_missing_driver_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="no NVIDIA driver: libnothing"):
        probe(0, "libnothing.so.1")


@pytest.mark.parametrize(
    ("version", "gpu", "says"),
    [
        ("10.11.0.33", {}, r"got TensorRT 10\.11.*expected 10\.12 or newer"),
        ("8.6.1", {}, "expected 10.12 or newer"),
        ("12.0.0.1", {}, "this version of ois supports 10.12 to 11"),
        ("11.4.0.106", {"driver_cuda": (12, 8)}, "needs a driver for CUDA 13.*up to 12.8"),
        ("11.4.0.106", {"sm": 70}, "compute capability 7.0.*needs 7.5"),
    ],
)
def test_versions_that_do_not_fit_are_refused(
    version: str, gpu: dict[str, object], says: str
) -> None:
    card = Gpu(**{"name": "V100", "sm": 90, "memory_bytes": 1, "driver_cuda": (13, 1), **gpu})  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=says):
        check_versions(SimpleNamespace(__version__=version), card)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api["version"])
def test_versions_that_fit_pass(api: dict[str, object]) -> None:
    check_versions(FakeTensorRT(api), Gpu("T4", 75, 1, (13, 0)))


def test_the_version_is_the_library_s_and_not_the_bindings(tmp_path: Path) -> None:
    trt = SimpleNamespace(__version__="11.4.0.106")
    parts = {"Major": 11, "Minor": 4, "Patch": 0, "Build": 150}
    source = "".join(
        f"int getInferLib{part}Version(void) {{ return {number}; }}\n"
        for part, number in parts.items()
    )
    library = compiled(tmp_path, "libnvinfer.so.11", source)
    assert library_version(trt, library) == "11.4.0.150"
    assert library_version(trt, str(tmp_path / "nothing.so")) == "11.4.0.106"
    empty = compiled(tmp_path, "libempty.so", "int nothing;")
    assert library_version(trt, empty) == "11.4.0.106"


def test_tensorrt_is_imported_after_the_driver_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def watched(name: str) -> object:
        asked.append(name)
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", watched)
    monkeypatch.setattr(gpu_driver, "LIBRARY", "libnothing.so.1")
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        load_tensorrt()
    assert asked == []
    monkeypatch.setattr(gpu_driver, "LIBRARY", driver(tmp_path))
    with pytest.raises(EngineError, match=r"cannot be imported \(tensorrt: libnvinfer.*bindings"):
        load_tensorrt()
    assert asked == ["tensorrt", "tensorrt_bindings"]


def test_cuda_s_own_bindings_refuse_without_a_driver() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match=r"cudaSetDevice failed: .*driver.*\(CUDA error \d+\)"):
        CudaMemory()


def test_memory_is_copied_by_the_bindings_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions exist in the real bindings and take this many arguments."""
    real = pytest.importorskip("cuda.bindings.runtime")
    called: list[str] = []

    def function(name: str, result: object) -> object:
        documented = getattr(real, name).__doc__.splitlines()[0]
        wanted = [part for part in documented[documented.index("(") + 1 : -1].split(",") if part]

        def call(*arguments: object) -> tuple[object, ...]:
            assert len(arguments) == len(wanted), documented
            called.append(name)
            return (real.cudaError_t.cudaSuccess, result)

        return call

    results = {"cudaStreamCreate": 7, "cudaMalloc": 4096}
    names = ("cudaSetDevice", "cudaFree", "cudaMemcpyAsync", "cudaStreamSynchronize", *results)
    fake = {name: function(name, results.get(name)) for name in names}
    for name, call in fake.items():
        monkeypatch.setattr(real, name, call)
    memory = CudaMemory(1)
    assert memory.stream == 7
    address = memory.allocate(16)
    assert address == 4096
    array = np.zeros(4, dtype=np.float32)
    memory.upload(address, array)
    memory.download(array, address)
    memory.free(address)
    assert called == [
        *("cudaSetDevice", "cudaStreamCreate", "cudaMalloc", "cudaMemcpyAsync"),
        *("cudaMemcpyAsync", "cudaStreamSynchronize", "cudaFree"),
    ]


def test_building_needs_no_torch() -> None:
    """The serving image does not have PyTorch."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import ois_export.tensorrt.build, ois_runtime.tensorrt.engine\n"
        "from ois_cli.main import main\n"
        "sys.exit(main(['build', 'nowhere']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no engines in nowhere" in done.stderr
