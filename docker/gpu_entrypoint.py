"""Serves with NVIDIA's tritonserver, in the image of the target `gpu`.

    OIS_ENGINES      engine folder with its model repository
    OIS_PLANS        volume of TensorRT engines, one folder for each GPU, TensorRT and model
    OIS_TOKEN_FILE   file with the token that clients must send; or OIS_TOKEN, the token itself
    OIS_CACHE_BYTES  feature store; default: what the shared memory (--shm-size) has room for

Arguments go to tritonserver. A TensorRT engine runs only on the kind of GPU and the TensorRT
that built it, hence the folders of the volume. Where a model has none, its ONNX engines run
in ONNX Runtime: this release cannot build TensorRT engines, and says so.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

from healthcheck import token

from ois_client.errors import EngineError, OISError
from ois_runtime.manifest import Manifest
from ois_runtime.server import repository_of
from ois_runtime.server_checks import check_shared_memory, default_cache_bytes
from ois_runtime.server_command import CLOSED, WITH_TOKEN, token_header

#: Above the 64 MiB of a picture; Triton's default for HTTP is below.
HTTP_MAX_BYTES = 128 * 2**20


def plan_key(gpu: str, tensorrt: str, model_sha256: str) -> str:
    """Name of a folder in the volume of plans."""
    return "-".join(
        re.sub(r"[^a-z0-9.]+", "_", part.lower()).strip("_") or "unknown"
        for part in (gpu, f"tensorrt {tensorrt}", model_sha256[:16])
    )


def first_line(*words: str) -> str:
    """What a program says first; "" when it is missing or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def choose_repository(engines: Path, plans: Path) -> tuple[Path, str]:
    """The repository to serve, and a line for the log that says which and why.

    Raises `EngineError` when `engines` has none.
    """
    repository = repository_of(engines)
    manifest = Manifest.load(engines)
    gpu = first_line("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    tensorrt = first_line("dpkg-query", "--show", "--showformat=${Version}\n", "libnvinfer[0-9]*")
    folder = plans / plan_key(gpu, tensorrt, manifest.model_sha256)
    if (folder / "repository").is_dir():
        return repository_of(folder), f"serving the TensorRT engines in {folder}"
    return repository, (
        f"no TensorRT engines in {folder}, and this release has no command that builds them: "
        f"serving {manifest.name} with ONNX Runtime"
    )


def command(
    repository: Path, secret: str, token: str | None, more: list[str]
) -> tuple[list[str], dict[str, str]]:
    """tritonserver's command line and what its environment needs besides ours."""
    cache_bytes = int(os.environ.get("OIS_CACHE_BYTES") or default_cache_bytes())
    check_shared_memory(cache_bytes)
    closed = f"{','.join(CLOSED)}:secret={secret}"
    groups = [closed]
    for name, value in token_header(token).items():
        groups.append(f"{','.join(WITH_TOKEN)}:{name}={value}")
    words = [
        "tritonserver",
        f"--model-repository={repository}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--http-address=0.0.0.0",
        "--grpc-address=0.0.0.0",
        "--metrics-address=0.0.0.0",
        f"--http-max-input-size={HTTP_MAX_BYTES}",
        "--exit-timeout-secs=60",
        *(f"--grpc-restricted-protocol={group}" for group in groups),
        *(f"--http-restricted-api={group}" for group in groups),
        *more,
    ]
    return words, {"OIS_CACHE_BYTES": str(cache_bytes)}


def main() -> None:
    try:
        engines = os.environ.get("OIS_ENGINES")
        if not engines:
            raise EngineError("OIS_ENGINES is not set; expected an engine folder")
        plans = Path(os.environ.get("OIS_PLANS", "/plans"))
        repository, line = choose_repository(Path(engines), plans)
        words, more = command(repository, secrets.token_hex(16), token(), sys.argv[1:])
    except OISError as error:
        sys.exit(f"error: {error}")
    print(f"ois: {line}", file=sys.stderr, flush=True)
    os.execvpe(words[0], words, {**os.environ, **more})


if __name__ == "__main__":
    main()
