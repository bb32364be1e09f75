"""The parity gate on built engines: TensorRT against the ONNX graphs they were built from.

Those graphs were compared with the PyTorch network when they were exported, so the reference
is at hand wherever engines are built: ONNX Runtime on CPU, no torch. The minimum, optimum and
maximum of every profile run, because kernels are chosen by shape and TensorRT's open defects
appear at some batch sizes only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.geometry import Geometry
from ois_export.parity.cases import SQUARE, Case, make_prompts, one_object
from ois_export.parity.comparison import Limits, Measurement, Progress, Reference, compare, judge
from ois_export.tensorrt.profiles import Grid
from ois_runtime.engines.pair import EnginePair


def run_plan_gate(
    plans: EnginePair,
    onnx: EnginePair,
    points: list[tuple[Grid, int]],
    *,
    limits: Limits,
    progress: Progress,
) -> dict[str, Any]:
    """Compare at every point (patch grid, N); returns the manifest's record.

    Raises `ParityError` naming each point and number that is out of its limit.
    """
    measured = []
    for number, (grid, objects) in enumerate(points, start=1):
        patch = onnx.manifest.patch
        geometry = Geometry(grid[1] * patch, grid[0] * patch, grid[1], grid[0], patch)
        progress(
            f"parity {number}/{len(points)}: {geometry.network_width}x"
            f"{geometry.network_height}, {objects} object(s)"
        )
        measured.append(_measure(plans, onnx, geometry, objects, seed=number))
    return judge(
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
        # Object by object: rows are independent, and memory stays that of one.
        rows = [onnx.decode(state, one_object(prompts, row)) for row in range(objects)]
        logits, coverage = (np.concatenate(arrays) for arrays in zip(*rows, strict=True))
        return Reference(depth, logits, coverage)

    return compare(plans, SQUARE.name, image, geometry, prompts, reference)


def _picture(geometry: Geometry) -> NDArray[np.uint8]:
    size = geometry.network_width, geometry.network_height
    photo = Image.fromarray(SQUARE.pixels()).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(photo)


def _case(objects: int) -> Case:
    """N objects with one to four clicks, every second with a previous mask."""
    return Case(SQUARE, tuple((1 + n % 2, n % 3, n % 2 == 1) for n in range(objects)))
