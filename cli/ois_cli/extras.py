"""Which extra installs what a command lacks, for its error message."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ois_cli.packages import PACKAGES
from ois_client.contract.errors import EngineError

#: Command -> the extras with all its packages, as in `pip install 'ois-deploy[...]'`.
EXTRAS = {
    "bench": "cpu,bench",
    "build": "tensorrt",
    "checkpoint": "network",
    "demo": "cpu,demo",
    "export": "cpu,export",
    "label": "cpu",
    "lint": "export",
    "serve": "cpu,serve",
    "show": "cpu,bench",
    "train": "train",
}

#: Extras that an option of a command needs, and not the command.
_OF_OPTIONS = ("ray",)


def missing_extra(error: BaseException, arguments: Sequence[str]) -> EngineError | None:
    """The error for a user whose installation lacks a package; None if `error` is something else.

    arguments: of the command line; the first one that is no option is the command.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.split(".")[0]
    needed = [package for package in PACKAGES if package.module.split(".")[0] == module]
    if not needed:
        return None
    command = next((word for word in arguments if not word.startswith("-")), "")
    extra = needed[0].extra
    if extra not in _OF_OPTIONS:
        extra = EXTRAS.get(command, extra)
    if needed[0].extra != "cpu" and _has_gpu_runtime():
        # `cpu` would install the CPU's ONNX Runtime over it.
        extra = ",".join("gpu" if name == "cpu" else name for name in extra.split(","))
    wanted = f"ois-deploy[{extra}]" if extra else "ois-deploy"
    return EngineError(
        f"ois {command} needs the package {needed[0].distribution}, which is not installed in "
        f"{sys.prefix}; run pip install '{wanted}'"
    )


def _has_gpu_runtime() -> bool:
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return True
