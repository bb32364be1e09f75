"""The same build as `trtexec` command lines, for those who prefer them."""

from __future__ import annotations

import shlex
from pathlib import Path

from ois_export.tensorrt.profiles import Profile, Shape


def command(onnx: Path, plan: Path, profiles: list[Profile], *, workspace_bytes: int | None) -> str:
    """One shell command that builds `plan` from `onnx` with the same settings.

    What `ois build` does besides has no option there: the gate and the manifest.
    """
    words = [
        "trtexec",
        f"--onnx={onnx}",
        f"--saveEngine={plan}",
        "--stronglyTyped",
        "--noTF32",
        "--profilingVerbosity=detailed",
        "--skipInference",
    ]
    if workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{workspace_bytes // 2**20}")
    for number, profile in enumerate(profiles):
        if len(profiles) > 1:
            words.append(f"--profile={number}")
        for place, option in enumerate(("minShapes", "optShapes", "maxShapes")):
            shapes = ",".join(
                f"{name}:{_text(ranges[place])}" for name, ranges in profile.inputs.items()
            )
            words.append(f"--{option}={shapes}")
    return " \\\n  ".join(shlex.quote(word) for word in words)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
