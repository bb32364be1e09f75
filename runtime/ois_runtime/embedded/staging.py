"""Puts together the `tritonserver` that the wheel of nvidia-pytriton carries.

    <stage>/backends/python/        the Python backend, with the stub of this Python version
    <stage>/backends/onnxruntime/   a Python-based backend: runs `model.onnx` on CPU
    <stage>/backends/tensorrt/      the same for `model.plan`, where its GPU and TensorRT are
    <stage>/busy/                   a file for each model's process, see `serving_busy.py`

The backend names are those of NVIDIA's container, so both run the same model repository.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ois_client.contract.errors import EngineError

PACKAGE = "nvidia-pytriton==0.7.0"
INSTALL = "pip install 'ois-deploy[serve]'"

#: File of a Python-based backend -> the class in `serving_backends.py` it stands for.
BACKENDS = {"onnxruntime": "OnnxRuntimeModel", "tensorrt": "TensorRTModel"}


@dataclass(frozen=True, slots=True)
class Wheel:
    """Where the installed wheel keeps the server. `root`: pytriton/tritonserver."""

    root: Path

    @property
    def binary(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def libraries(self) -> Path:
        return self.root.parent.parent / "nvidia_pytriton.libs"

    @property
    def stub(self) -> Path:
        """What runs Python models: one program a Python version."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return self.root / "python_backend_stubs" / version / "triton_python_backend_stub"

    @property
    def backend_files(self) -> tuple[Path, ...]:
        python = self.root / "backends" / "python"
        return (
            python / "libtriton_python.so",
            python / "triton_python_backend_utils.py",
            self.stub,
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """A folder with everything of ours that the server reads, apart from the repository."""

    wheel: Wheel
    folder: Path

    @property
    def backends(self) -> Path:
        return self.folder / "backends"

    @property
    def busy(self) -> Path:
        """Where the models say whether they work, see `serving_busy.py`."""
        return self.folder / "busy"

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.wheel, os.environ)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def find_wheel() -> Wheel:
    """Raises `EngineError`, naming the extra, when the wheel is not installed."""
    spec = importlib.util.find_spec("pytriton")  # found, not imported: its API needs more
    if spec is None or spec.origin is None:
        raise EngineError(
            f"the embedded server needs the package {PACKAGE}, which is not installed; run "
            f"{INSTALL} (Linux x86-64, Python 3.11 or 3.12)"
        )
    wheel = Wheel(Path(spec.origin).parent / "tritonserver")
    if not wheel.binary.is_file():
        raise EngineError(
            f"the installed nvidia-pytriton carries no tritonserver; run "
            f"pip install --force-reinstall '{PACKAGE}'"
        )
    return wheel


def make_stage(wheel: Wheel) -> Stage:
    """Copy the backends into a new folder. Raises `EngineError` when that cannot be done."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="ois-server-"))
        stage = Stage(wheel, folder)
        stage.busy.mkdir()
        python = stage.backends / "python"
        python.mkdir(parents=True)
        for file in wheel.backend_files:
            shutil.copy2(file, python)  # a link would "escape the backend directory"
        for name, implementation in BACKENDS.items():
            backend = stage.backends / name
            backend.mkdir()
            (backend / "model.py").write_text(
                f"from ois_runtime.serving.engine_models import {implementation} as "
                "TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"
            )
    except OSError as error:
        raise EngineError(
            f"the embedded server could not be put together in {tempfile.gettempdir()}: "
            f"{error}; free space there, or set TMPDIR to another folder"
        ) from error
    return stage


def environment(wheel: Wheel, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: what ours is, and what decides which Python its models run in.

    Only PATH selects the virtual environment of a stub; PYTHONHOME, PYTHONPATH and
    VIRTUAL_ENV do nothing. The copied backend has lost its RPATH and needs LD_LIBRARY_PATH.
    """
    path = [str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]
    libraries = [
        *([folder] if (folder := libpython_folder()) else []),
        str(wheel.libraries),
        *([ours] if (ours := inherited.get("LD_LIBRARY_PATH")) else []),
    ]
    return {
        **inherited,
        "PATH": os.pathsep.join(path),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }


def libpython_folder() -> str | None:
    """Where this interpreter's shared library lies; None leaves the choice to ld.so."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib")
    return next((str(path) for path in candidates if path and (Path(path) / name).is_file()), None)
