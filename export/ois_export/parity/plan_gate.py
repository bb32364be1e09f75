"""The parity gate of `ois build`: compares TensorRT engines with the graphs they are built from.

`ois export` compared those graphs with the PyTorch network, so the reference needs no torch: it
is ONNX Runtime on CPU. The minimum, optimum and maximum of every profile are run, because
TensorRT chooses kernels by shape and its known bugs appear at some batch sizes only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.geometry import Geometry
from ois_export.parity.cases import SQUARE, Case, make_prompts, one_object
from ois_export.parity.comparison import (
    Limits,
    Measurement,
    Progress,
    Reference,
    check_limits,
    compare,
)
from ois_runtime.engines.pair import EnginePair


def run_plan_gate(
    plans: EnginePair,
    onnx: EnginePair,
    points: list[tuple[tuple[int, int], int]],
    *,
    limits: Limits,
    progress: Progress,
) -> dict[str, Any]:
    """Compare at every point and return the manifest's record of the comparison.

    points: patch grids (rows, columns) with a number of objects.
    Raises `ParityError` naming each value that exceeds its limit.
    """
    measured = []
    for number, (grid, objects) in enumerate(points, start=1):
        patch = onnx.manifest.patch
        scale = onnx.manifest.coverage_scale
        geometry = Geometry(grid[1] * patch, grid[0] * patch, grid[1], grid[0], patch, scale)
        progress(
            f"parity {number}/{len(points)}: {geometry.network_width}x"
            f"{geometry.network_height}, {objects} object(s)"
        )
        measured.append(_measure(plans, onnx, geometry, objects, seed=number))
    return check_limits(
        measured, limits, engines=plans.description, reference=f"ONNX ({onnx.description})"
    )


def _measure(
    plans: EnginePair, onnx: EnginePair, geometry: Geometry, objects: int, *, seed: int
) -> Measurement:
    image = _picture(geometry)
    prompts = make_prompts(_case(objects), geometry, seed)

    def reference() -> Reference:
        state = onnx.encode(image, geometry)
        depth = np.asarray(state.arrays["depth"], dtype=np.float32)
        # One object at a time, to save memory.
        rows = [onnx.decode(state, one_object(prompts, row)) for row in range(objects)]
        logits, coverage = (np.concatenate(arrays) for arrays in zip(*rows, strict=True))
        return Reference(depth, logits, coverage)

    return compare(plans, SQUARE.name, image, geometry, prompts, reference)


def _picture(geometry: Geometry) -> NDArray[np.uint8]:
    size = geometry.network_width, geometry.network_height
    photo = Image.fromarray(SQUARE.pixels()).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(photo)


def _case(objects: int) -> Case:
    """N objects with one to four clicks, every second one with a previous mask."""
    return Case(SQUARE, tuple((1 + n % 2, n % 3, n % 2 == 1) for n in range(objects)))
