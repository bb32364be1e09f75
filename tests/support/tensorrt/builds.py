"""Builds engines with the stand-in for TensorRT."""

from __future__ import annotations

from pathlib import Path

from ois_export.tensorrt.build import Ranges, build_with
from ois_export.tensorrt.plan import BuildOptions
from ois_runtime.engines.manifest import Manifest
from ois_runtime.gpu_driver import Gpu
from support.tensorrt.fake import FakeTensorRT, HostMemory

GPU = Gpu("NVIDIA H100 80GB HBM3", 90, 80 * 2**30, (13, 1))
RANGES = Ranges(("landscape", "portrait"), ("1", "2:3:4"))
ONE_SHAPE = Ranges(("112x70",), ("2",))


def build(engines: Path, plans: Path, trt: FakeTensorRT, **changes: object) -> Path:
    """Build one small shape. changes: arguments of `build_with`."""
    settings: dict[str, object] = {
        "ranges": ONE_SHAPE,
        "options": BuildOptions(),
        "limits": None,
        "rebuild": False,
        "progress": lambda _: None,
        **changes,
    }
    manifest = Manifest.load(engines)
    return build_with(trt, GPU, HostMemory, engines, manifest, plans, **settings)  # type: ignore[arg-type]
