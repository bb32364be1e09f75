"""What would hang the embedded server, or make it answer nonsense: found before it starts.

A missing libpython leaves `tritonserver` at "loading" for ever; under NumPy 2 its Python
models answer with empty tensors and status OK; a full /dev/shm fails in the middle of a click.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ois_client.contract.errors import EngineError
from ois_runtime.embedded.guard import SHARED_MEMORY
from ois_runtime.embedded.staging import INSTALL, Wheel, environment

#: A region a Python model, and what goes in and out of them for a click on a large picture.
SHARED_MEMORY_MARGIN = 128 * 2**20
_GLIBC = (2, 35)


def check_machine(wheel: Wheel, cache_bytes: int) -> None:
    """Raise `EngineError` with what to do, unless the server can run here."""
    _check_python(sys.version_info[:2], (platform.system(), platform.machine()))
    _check_numpy(metadata.version("numpy"))
    _check_glibc(platform.libc_ver())
    _check_interpreter(Path(sys.executable).parent)
    check_shared_memory(cache_bytes)
    check_stub(wheel.stub, environment(wheel, os.environ))


def default_cache_bytes() -> int:
    """2 GiB, or less where shared memory, in which the features lie, is small."""
    free = shutil.disk_usage(SHARED_MEMORY).free
    return max(0, min(2 * 2**30, int(0.75 * (free - SHARED_MEMORY_MARGIN))))


def check_shared_memory(cache_bytes: int) -> None:
    if not SHARED_MEMORY.is_dir():
        raise EngineError(f"no {SHARED_MEMORY} on this system; the server's models need it")
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < cache_bytes + SHARED_MEMORY_MARGIN or not cache_bytes:
        raise EngineError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free; a feature store of "
            f"{cache_bytes / 2**20:.0f} MiB needs {SHARED_MEMORY_MARGIN / 2**20:.0f} MiB more than "
            "that. Make it larger (docker run --shm-size=1g), or pass a smaller --cache-bytes"
        )


def check_stub(stub: Path, env: dict[str, str]) -> None:
    """Ask the loader which libraries the stub would get: what `ldd` does, without its script."""
    try:
        loader = subprocess.run(
            [str(stub)],
            env={**env, "LD_TRACE_LOADED_OBJECTS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(
            f"the server's Python stub does not run ({error}); run {INSTALL} again"
        ) from error
    missing = [line.strip() for line in loader.stdout.splitlines() if "not found" in line]
    missing += [line.strip() for line in loader.stderr.splitlines() if "not found" in line]
    if missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise EngineError(
            f"the server's Python stub lacks a shared library: {'; '.join(missing)}. For "
            f"libpython: apt-get install libpython{version}, or use a Python built with "
            "--enable-shared"
        )


def _check_python(version: tuple[int, ...], system: tuple[str, str]) -> None:
    if system != ("Linux", "x86_64"):
        raise EngineError(
            f"the embedded server runs on Linux x86-64; this is {' '.join(system)}. Serve from "
            "NVIDIA's container, or use local:"
        )
    if not (3, 11) <= version <= (3, 12):
        raise EngineError(
            f"the embedded server's models run on Python 3.11 or 3.12; this is "
            f"{'.'.join(map(str, version))}"
        )


def _check_numpy(version: str) -> None:
    if int(version.split(".")[0]) >= 2:
        raise EngineError(
            f"the embedded server needs NumPy 1.26; this environment has {version}, under which "
            f"its models would answer with empty tensors. Run {INSTALL} in an environment of "
            "its own"
        )


def _check_glibc(libc: tuple[str, str]) -> None:
    name, version = libc
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < _GLIBC:
        raise EngineError(
            f"the embedded server needs glibc {_GLIBC[0]}.{_GLIBC[1]} or later (Debian 12, "
            f"Ubuntu 22.04); this system has {name or 'another C library'} {version}"
        )


def _check_interpreter(folder: Path) -> None:
    # The stub finds its environment through `python3` on PATH, and is started through bash.
    if not (folder / "python3").exists():
        raise EngineError(
            f"no python3 in {folder}, by which the server's models find their packages; make the "
            "environment with python3 -m venv"
        )
    if shutil.which("bash") is None:
        raise EngineError("no bash on PATH, through which the server starts its models")
