"""Finds and prepares the files that the embedded server reads.

The `tritonserver` in the wheel of nvidia-pytriton lacks backends for engines. A staging folder adds
them under the names that NVIDIA's container uses, so that both run the same model repository:

    <stage>/backends/python/        the Python backend, with the stub for this Python version
    <stage>/backends/onnxruntime/   a Python-based backend that runs `model.onnx` on the CPU
    <stage>/backends/tensorrt/      a Python-based backend that runs `model.plan` on a GPU
    <stage>/sockets/                where the server listens, for this user only
    <stage>/lock                    locked while the server's owner or its guard lives (remains.py)
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ois_client.contract.errors import EngineError
from ois_client.wire import MODEL
from ois_runtime.engines.manifest import EXPORT_COMMAND, MANIFEST_FILE, Manifest

PACKAGE = "nvidia-pytriton==0.7.0"
INSTALL = "pip install 'ois-deploy[serve]'"

#: Name of a Python-based backend -> its class in `ois_runtime.serving.engine_models`.
BACKENDS = {"onnxruntime": "OnnxRuntimeModel", "tensorrt": "TensorRTModel"}

#: How the names of staging folders begin.
STAGE_PREFIX = "ois-server-"
LOCK = "lock"

_REPOSITORY = "repository"
#: The kernel's limit on the name of a Unix socket is 107 bytes.
_LONGEST_SOCKET = 107


@dataclass(frozen=True, slots=True)
class Wheel:
    """The server's files in the installed wheel. root: the folder pytriton/tritonserver."""

    root: Path

    @property
    def binary(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def libraries(self) -> Path:
        return self.root.parent.parent / "nvidia_pytriton.libs"

    @property
    def stub(self) -> Path:
        """The program that runs Python models. There is one per Python version."""
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
    """A temporary folder with the files that the server needs besides the model repository.

    lock: an open, locked file in it, for the server's guard to inherit; None if nobody needs it.
    """

    wheel: Wheel
    folder: Path
    lock: IO[str] | None = field(default=None, compare=False)

    @property
    def backends(self) -> Path:
        return self.folder / "backends"

    @property
    def sockets(self) -> Path:
        """The folder in which the server listens, for this user only."""
        return self.folder / "sockets"

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.wheel, os.environ)

    def remove(self) -> None:
        self.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """This process no longer holds the lock. The guard does until it ends."""
        if self.lock is not None:
            self.lock.close()


def find_wheel() -> Wheel:
    """The installed wheel. Raises `EngineError` with the install command if there is none."""
    spec = importlib.util.find_spec("pytriton")  # not imported: its API has further dependencies
    if spec is None or spec.origin is None:
        raise EngineError(
            f"the embedded server needs the package {PACKAGE}, which is not installed; run "
            f"{INSTALL} (Linux x86-64, Python 3.11 or 3.12)"
        )
    wheel = Wheel(Path(spec.origin).parent / "tritonserver")
    if not wheel.binary.is_file():
        raise EngineError(
            f"the installed nvidia-pytriton contains no tritonserver; run "
            f"pip install --force-reinstall '{PACKAGE}'"
        )
    return wheel


def make_stage(wheel: Wheel) -> Stage:
    """Copy the backends into a new folder. Raises `EngineError` if the files cannot be written."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=STAGE_PREFIX))
        stage = Stage(wheel, folder, _locked(folder / LOCK))
        stage.sockets.mkdir(mode=0o700)
        python = stage.backends / "python"
        python.mkdir(parents=True)
        for file in wheel.backend_files:
            shutil.copy2(file, python)  # Triton rejects links that leave the backend folder
        for name, implementation in BACKENDS.items():
            backend = stage.backends / name
            backend.mkdir()
            (backend / "model.py").write_text(
                f"from ois_runtime.serving.engine_models import {implementation} as "
                "TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"
            )
        longest = len(str(stage.sockets / "metrics"))
        if longest > _LONGEST_SOCKET:
            stage.remove()
            raise EngineError(
                f"the temporary folder {tempfile.gettempdir()} has too long a name: the server's "
                f"sockets in it have {longest} characters, and {_LONGEST_SOCKET} is the limit. Set "
                "TMPDIR to a shorter one"
            )
    except OSError as error:
        raise EngineError(
            f"the embedded server's files could not be written in {tempfile.gettempdir()}: "
            f"{error}; free space there, or set TMPDIR to another folder"
        ) from error
    return stage


def _locked(path: Path) -> IO[str]:
    """Make a file that is locked from its first moment."""
    new = path.with_name("unlocked")
    lock = new.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(path)
    return lock


def repository_of(engines: Path) -> Path:
    """The model repository in the engine folder `engines`, or `engines` itself if it is one.

    Raises `EngineError` if there is no model repository.
    """
    for folder in (engines / _REPOSITORY, engines):
        if (folder / MODEL / "config.pbtxt").is_file():
            return folder.resolve()
    raise EngineError(
        f"no model repository in {engines}: expected {engines / _REPOSITORY / MODEL}. Export the "
        f"engines again: {EXPORT_COMMAND}"
    )


def manifest_of(repository: Path) -> Manifest:
    """The manifest of a model repository. Raises `EngineError` if it cannot be read."""
    path = repository / MODEL / "1" / MANIFEST_FILE
    try:
        return Manifest.from_dict(json.loads(path.read_text(encoding="utf-8")), source=str(path))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{path} cannot be read ({error}). Export the engines again: {EXPORT_COMMAND}"
        ) from error


def environment(wheel: Wheel, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's environment variables: `inherited`, with PATH and LD_LIBRARY_PATH changed.

    The stub finds its virtual environment through PATH alone and ignores PYTHONHOME, PYTHONPATH
    and VIRTUAL_ENV. The copied backend finds its libraries through LD_LIBRARY_PATH, because
    its RPATH does not hold in the copy.
    """
    path = [str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]
    libraries = [
        *([folder] if (folder := libpython_folder()) else []),
        str(wheel.libraries),
        *([given] if (given := inherited.get("LD_LIBRARY_PATH")) else []),
    ]
    return {
        **inherited,
        "PATH": os.pathsep.join(path),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }


def libpython_folder() -> str | None:
    """The folder of this interpreter's shared library; None if only ld.so may find it."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib")
    return next((str(path) for path in candidates if path and (Path(path) / name).is_file()), None)
