"""Checks, before the embedded server starts, that it can run on this machine.

Without them, a missing libpython leaves `tritonserver` in state "loading" forever, NumPy 2 makes
its Python models answer with empty tensors and status OK, and a full /dev/shm makes clicks fail.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ois_client.contract.errors import EngineError
from ois_runtime.embedded.guard import SHARED_MEMORY
from ois_runtime.embedded.staging import INSTALL, Wheel, environment

#: Shared memory besides the feature store: a region per Python model, and the tensors of a click on
#: a large image.
SHARED_MEMORY_MARGIN = 128 * 2**20
#: Open files without which the server waits for ever during its start.
_DESCRIPTORS = 256
_GLIBC = (2, 35)


def check_machine(wheel: Wheel, cache_bytes: int) -> None:
    """Raise `EngineError` if the server cannot run here.

    cache_bytes: memory of the feature store in /dev/shm.
    """
    _check_python(sys.version_info[:2], (platform.system(), platform.machine()))
    _check_numpy(metadata.version("numpy"))
    _check_glibc(platform.libc_ver())
    _check_interpreter(Path(sys.executable).parent)
    _check_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    check_shared_memory(cache_bytes)
    check_stub(wheel.stub, environment(wheel, os.environ))


def default_cache_bytes() -> int:
    """The default memory of the feature store: 2 GiB, or less if /dev/shm is small."""
    free = shutil.disk_usage(SHARED_MEMORY).free
    return max(0, min(2 * 2**30, int(0.75 * (free - SHARED_MEMORY_MARGIN))))


def check_shared_memory(cache_bytes: int) -> None:
    """Raise `EngineError` if /dev/shm cannot hold a feature store of `cache_bytes`."""
    if not SHARED_MEMORY.is_dir():
        raise EngineError(f"the embedded server needs {SHARED_MEMORY}, which is missing; mount it")
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < cache_bytes + SHARED_MEMORY_MARGIN or not cache_bytes:
        raise EngineError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free; a feature store of "
            f"{cache_bytes / 2**20:.0f} MiB needs {SHARED_MEMORY_MARGIN / 2**20:.0f} MiB more than "
            "that. Make it larger (docker run --shm-size=1g), or pass a smaller --cache-bytes"
        )


def check_stub(stub: Path, env: dict[str, str]) -> None:
    """Raise `EngineError` if the stub does not find its shared libraries, as `ldd` would show."""
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
            f"the server's Python stub misses shared libraries: {'; '.join(missing)}. For "
            f"libpython, run apt-get install libpython{version} or use a Python built with "
            "--enable-shared"
        )


def _check_python(version: tuple[int, ...], system: tuple[str, str]) -> None:
    if system != ("Linux", "x86_64"):
        raise EngineError(
            f"the embedded server runs on Linux x86-64 only; this is {' '.join(system)}. Serve "
            "from NVIDIA's container, or run the engines in process with a local: address"
        )
    if not (3, 11) <= version <= (3, 12):
        raise EngineError(
            f"the embedded server's models need Python 3.11 or 3.12; this is "
            f"{'.'.join(map(str, version))}. Run {INSTALL} with one of these versions"
        )


def _check_numpy(version: str) -> None:
    if int(version.split(".")[0]) >= 2:
        raise EngineError(
            f"the embedded server needs NumPy 1.26; this environment has {version}, with which "
            f"its models answer with empty tensors. Run {INSTALL} in a new environment"
        )


def _check_glibc(libc: tuple[str, str]) -> None:
    name, version = libc
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < _GLIBC:
        raise EngineError(
            f"the embedded server needs glibc {_GLIBC[0]}.{_GLIBC[1]} or later (Debian 12, "
            f"Ubuntu 22.04); this system has {name or 'another C library'} {version}. Use a newer "
            "system or a container"
        )


def _check_descriptors(limit: int) -> None:
    if limit != resource.RLIM_INFINITY and limit < _DESCRIPTORS:
        raise EngineError(
            f"this process may open {limit} files; the server needs {_DESCRIPTORS}, and one more "
            "for each connection. Raise the limit (ulimit -n 4096)"
        )


def _check_interpreter(folder: Path) -> None:
    # The server starts the stub through bash, and the stub finds its environment through `python3`
    # on PATH.
    if not (folder / "python3").exists():
        raise EngineError(
            f"there is no python3 in {folder}, through which the server's models find their "
            "packages; create the environment with python3 -m venv"
        )
    if shutil.which("bash") is None:
        raise EngineError("the server needs bash, which is not on PATH; install it")
