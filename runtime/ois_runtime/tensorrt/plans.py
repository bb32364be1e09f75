"""Where TensorRT engines lie: a folder for each GPU, TensorRT and model.

An engine runs only on the kind of GPU and the TensorRT that built it, and belongs to one model.
"""

from __future__ import annotations

import re

from ois_runtime.tensorrt.driver import Gpu


def machine_key(gpu: Gpu, tensorrt: str) -> str:
    """What a plan depends on besides its model: `nvidia_h100_80gb_hbm3-sm90-tensorrt11.4.0.106`."""
    return "-".join(
        re.sub(r"[^a-z0-9.]+", "_", part.lower()).strip("._") or "unknown"
        for part in (gpu.name, f"sm{gpu.sm}", f"tensorrt{tensorrt}")
    )


def plan_key(gpu: Gpu, tensorrt: str, model_sha256: str) -> str:
    """The folder's name: `machine_key` and the beginning of the model's digest."""
    return f"{machine_key(gpu, tensorrt)}-{model_sha256[:16]}"
