"""Entry point of the image `gpu`: serves with NVIDIA's tritonserver. *Not yet run on a GPU.*

    OIS_ENGINES      folder of graphs from `ois export --target tensorrt`
    OIS_PLANS        volume for TensorRT engines, with a folder per GPU type, TensorRT version and
                     model; default /plans
    OIS_BUILD        further options for `ois build`, as on a command line
    OIS_WITHOUT_PLANS  what to do if the engines cannot be built: "stop" (default), or "onnx" to
                     serve the graphs with ONNX Runtime on CUDA, which is slower
    OIS_TOKEN_FILE   file with the token that clients must send; or OIS_TOKEN, the token itself
    OIS_FEATURE_DEVICE  the GPU that keeps features between encoder and clicks; default "cuda:0" if
                     the image has PyTorch. Empty: shared memory, copied to the GPU at every click
    OIS_CACHE_BYTES  memory of the feature store; default: 2 GiB on a GPU, otherwise what shared
                     memory (--shm-size) allows
    OIS_CACHE_SALT   "token" keeps the features of every token apart

The first start on a type of GPU builds the engines, which takes minutes, shows its progress in the
log and keeps the result in the volume. Arguments are passed to tritonserver. Triton keeps running
after the process of a model has died, so this program ends if the server does not answer for 45 s,
and the container is restarted.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from supervise import supervise

from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_runtime.embedded.checks import check_shared_memory, default_cache_bytes
from ois_runtime.embedded.command import CLOSED_APIS, FORWARD_TOKEN, TOKEN_APIS
from ois_runtime.embedded.options import token_from_environment, token_header
from ois_runtime.embedded.probe import answers
from ois_runtime.embedded.staging import repository_of
from ois_runtime.engines.manifest import Manifest

#: Limit of an HTTP request. Triton's default is below the 64 MiB that an image may have.
HTTP_MAX_BYTES = 128 * 2**20

#: Size of the feature store if it is in GPU memory: 50 images of ViT-B at 1022x1022.
GPU_CACHE_BYTES = 2 * 2**30

#: GPU memory for the tensors of clicks in progress.
CLICK_BYTES = 512 * 2**20

BUILD = (sys.executable, "-m", "ois_cli.main", "build")
WITHOUT_PLANS = ("stop", "onnx")


def choose_repository(
    engines: Path, plans: Path, *, without_plans: str, build: Sequence[str] = BUILD
) -> tuple[Path, str]:
    """The model repository to serve, and a line for the log about it.

    without_plans: "stop" or "onnx", see OIS_WITHOUT_PLANS. build: the command `ois build`.
    Raises `EngineError` if the engines cannot be built and `without_plans` is "stop".
    """
    if without_plans not in WITHOUT_PLANS:
        raise InvalidInput(
            f"got OIS_WITHOUT_PLANS={without_plans!r}; expected {' or '.join(WITHOUT_PLANS)}"
        )
    try:
        folder = build_plans(engines, plans, build)
    except EngineError as error:
        if without_plans == "stop":
            raise EngineError(
                f"{error}. OIS_WITHOUT_PLANS=onnx serves the graphs with ONNX Runtime instead"
            ) from None
        name = Manifest.load(engines).name
        return repository_of(engines), f"{error}; serving {name} with ONNX Runtime"
    return repository_of(folder), f"serving the TensorRT engines in {folder}"


def build_plans(engines: Path, plans: Path, build: Sequence[str] = BUILD) -> Path:
    """Build the engines unless `plans` has them already. Returns their folder.

    Runs in a separate process, so that a crash in TensorRT becomes an error message and its GPU
    memory is free before the server starts. Raises `EngineError` if the build fails.
    """
    more = shlex.split(os.environ.get("OIS_BUILD", ""))
    words = [*build, str(engines), "--output", str(plans), "--json", *more]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)  # log: stderr
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode == 0 and "folder" in answer:
        return Path(answer["folder"])
    if done.returncode < 0:
        raise EngineError(f"building TensorRT engines was ended by signal {-done.returncode}")
    reason = answer.get("error", {}).get("message", f"exit code {done.returncode}, see the log")
    raise EngineError(f"no TensorRT engines could be built: {reason}")


def command(
    repository: Path, secret: str, token: str | None, more: list[str]
) -> tuple[list[str], dict[str, str]]:
    """The command line of tritonserver, and the variables to add to its environment.

    secret: opens the closed APIs, so it is random. more: further arguments for tritonserver.
    """
    device = feature_device(os.environ)
    given = os.environ.get("OIS_CACHE_BYTES")
    if device.startswith("cuda"):
        cache_bytes = int(given or GPU_CACHE_BYTES)
    else:
        cache_bytes = int(given or default_cache_bytes())
        check_shared_memory(cache_bytes)
    closed = f"{','.join(CLOSED_APIS)}:secret={secret}"
    groups = [closed]
    for name, value in token_header(token).items():
        groups.append(f"{','.join(TOKEN_APIS)}:{name}={value}")
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
        *(FORWARD_TOKEN if os.environ.get("OIS_CACHE_SALT") else ()),
        *memory_pool(device, cache_bytes),
        *more,
    ]
    return words, {"OIS_CACHE_BYTES": str(cache_bytes), "OIS_FEATURE_DEVICE": device}


def feature_device(environment: Mapping[str, str], default: str | None = None) -> str:
    """The GPU that keeps features, such as `"cuda:0"`; "" for shared memory.

    default: what is used if OIS_FEATURE_DEVICE is not set, by default the first GPU if PyTorch is
    installed: `ois_segment` needs it to use GPU memory.
    """
    if default is None:
        default = "cuda:0" if find_spec("torch") is not None else ""
    return environment.get("OIS_FEATURE_DEVICE", default)


def memory_pool(feature_device: str, cache_bytes: int) -> list[str]:
    """The option of tritonserver that sizes its pool of GPU memory, if features are kept there.

    feature_device: OIS_FEATURE_DEVICE. The pool must hold the features and the tensors of clicks.
    Triton's default is 64 MiB, about one image; beyond it, every tensor of every click is allocated
    and freed by CUDA.
    """
    kind, _, index = feature_device.partition(":")
    if kind != "cuda":
        return []
    return [f"--cuda-memory-pool-byte-size={int(index or 0)}:{cache_bytes + CLICK_BYTES}"]


def main() -> None:
    try:
        engines = os.environ.get("OIS_ENGINES")
        if not engines:
            raise EngineError("OIS_ENGINES is not set; expected an engine folder")
        token = token_from_environment(os.environ)
        repository, line = choose_repository(
            Path(engines),
            Path(os.environ.get("OIS_PLANS", "/plans")),
            without_plans=os.environ.get("OIS_WITHOUT_PLANS") or "stop",
        )
        words, more = command(repository, secrets.token_hex(16), token, sys.argv[1:])
    except OISError as error:
        sys.exit(f"error: {error}")
    print(f"ois: {line}", file=sys.stderr, flush=True)
    port = int(os.environ.get("OIS_HEALTH_PORT", "8000"))
    environment = {**os.environ, **more}
    status = supervise(
        words, lambda: answers("127.0.0.1", port, token=token), environment=environment
    )
    sys.exit(status)


if __name__ == "__main__":
    main()
