"""The parity gate: an engine that does not compute what the network computes is not written.

Every case runs the exported pair, through the very runtime that users get, on a crop of a
real photograph and compares it with the *unrewritten* PyTorch network in fp32, object by
object. So one gate covers the rewrites, the export and the runtime at once. N identical rows
must also agree with each other: that needs no reference, and open compiler bugs fail there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ois_client.clicks import Click, fill_slots
from ois_client.errors import ParityError
from ois_client.geometry import Geometry
from ois_export.samples import LANDSCAPE, PANORAMA, PORTRAIT, SQUARE, Sample
from ois_network.network import ImageFeatures, OISNetwork
from ois_network.order import coverage_of_logits
from ois_runtime.engines import EnginePair
from ois_runtime.preprocess import preprocess

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an engine may be from the network.

    Errors are max |difference| over max |reference|. Masks are compared at network size.
    """

    depth_error: float = 1e-4
    logit_error: float = 1e-4
    mask_iou: float = 0.999
    coverage_changed: float = 0.02  # share of patches whose coverage differs by more than 2/255
    row_difference: float = 1e-5


@dataclass(frozen=True, slots=True)
class Case:
    """One request: per object (positive clicks, negative clicks, has a previous mask)."""

    sample: Sample
    objects: tuple[tuple[int, int, bool], ...]

    @property
    def clicks(self) -> int:
        return max(positive + negative for positive, negative, _ in self.objects)


#: Four shapes; N = 1, 4, 16; 1 to 48 clicks; with and without a previous mask. The widest
#: request runs on the panorama so that ViT-B at 1022 stays within a laptop's memory.
CASES: tuple[Case, ...] = (
    Case(LANDSCAPE, ((1, 0, False),)),
    Case(LANDSCAPE, ((2, 1, True),)),
    Case(PORTRAIT, ((1, 0, False), (1, 2, True), (3, 0, True), (5, 4, False))),
    Case(SQUARE, ((24, 24, True),)),
    Case(
        PANORAMA,
        tuple((1 + 23 * n // 15, 24 * n // 15, n % 3 != 0) for n in range(16)),
    ),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one case measured; JSON-ready, part of the manifest."""

    sample: str
    network_size: tuple[int, int]
    objects: int
    clicks: int
    with_previous: int
    depth_error: float
    logit_error: float
    mask_iou: float
    coverage_changed: float
    row_difference: float


def run_gate(
    network: OISNetwork,
    engines: EnginePair,
    *,
    limits: Limits | None = None,
    cases: Sequence[Case] = CASES,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Measure every case; returns {"limits", "cases"} for the manifest.

    Raises `ParityError` naming each case and number that is out of its limit.
    """
    limits = limits or Limits()
    measured = []
    for number, case in enumerate(cases, start=1):
        progress(
            f"parity {number}/{len(cases)}: {case.sample.name}, {len(case.objects)} object(s), "
            f"up to {case.clicks} click(s)"
        )
        measured.append(measure(network, engines, case, seed=number))
    broken = [text for result in measured for text in _complaints(result, limits)]
    if broken:
        raise ParityError(
            f"the engines differ from the PyTorch network ({engines.description}); nothing was "
            "written:\n  " + "\n  ".join(broken)
        )
    return {"limits": asdict(limits), "cases": [asdict(result) for result in measured]}


def measure(network: OISNetwork, engines: EnginePair, case: Case, *, seed: int) -> Measurement:
    """Run one case on both sides."""
    config = network.config
    image, geometry = preprocess(case.sample.pixels(), longest=config.longest, patch=config.patch)
    prompts = make_prompts(case, geometry, seed)
    state = engines.encode(image, geometry)
    logits, coverage = engines.decode(state, *prompts)
    with torch.no_grad():
        rows, columns = map(torch.from_numpy, geometry.position_matrices(config.position_table))
        features = network.encode(torch.from_numpy(image.copy()).unsqueeze(0), rows, columns)
        expected, expected_coverage = _reference(network, features, prompts)
    same = [np.repeat(array[-1:], len(case.objects), axis=0) for array in prompts]
    rows_logits, _ = engines.decode(state, *same) if len(case.objects) > 1 else (logits, None)
    scale = float(np.abs(expected).max())
    return Measurement(
        sample=case.sample.name,
        network_size=(geometry.network_width, geometry.network_height),
        objects=len(case.objects),
        clicks=case.clicks,
        with_previous=int(prompts[3].sum()),
        depth_error=_relative(state.arrays["depth"], features.depth.numpy()),
        logit_error=_relative(logits, expected),
        mask_iou=min(_iou(got > 0, want > 0) for got, want in zip(logits, expected, strict=True)),
        coverage_changed=float(
            (np.abs(coverage.astype(int) - expected_coverage.astype(int)) > 2).mean()
        ),
        row_difference=float(np.abs(rows_logits - rows_logits[:1]).max()) / scale
        if len(case.objects) > 1
        else 0.0,
    )


Prompts = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint8], NDArray[np.bool_]]


def make_prompts(case: Case, geometry: Geometry, seed: int) -> Prompts:
    """Random clicks, and for objects with a previous mask a disk-shaped coverage."""
    generator = np.random.default_rng(seed)
    size = np.array([geometry.width - 1, geometry.height - 1])
    objects = []
    for positive, negative, _ in case.objects:
        places = generator.random((positive + negative, 2)) * size
        objects.append([Click(float(x), float(y), n < positive) for n, (x, y) in enumerate(places)])
    points, labels = fill_slots(objects, geometry)
    y, x = np.mgrid[: geometry.grid_height, : geometry.grid_width]
    coverage = np.zeros((len(objects), *x.shape), dtype=np.uint8)
    for row, clicks in enumerate(objects):
        column, line = geometry.to_grid(np.array([clicks[0].x, clicks[0].y]))
        distance = np.hypot(x - column, y - line)
        reach = max(x.shape) / 4
        coverage[row] = np.clip((reach - distance) * 64, 0, 255).astype(np.uint8)
    has_previous = np.array([previous for _, _, previous in case.objects])
    coverage[~has_previous] = 0
    return points, labels, coverage, has_previous


def _reference(
    network: OISNetwork, features: ImageFeatures, prompts: Prompts
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Object by object: rows are independent, and memory stays that of one."""
    logits, coverage = [], []
    for row in range(len(prompts[0])):
        one = network.click(
            features, *(torch.from_numpy(array[row : row + 1]) for array in prompts)
        )
        logits.append(one.numpy())
        coverage.append(coverage_of_logits(one, network.config.patch).numpy())
    return np.concatenate(logits), np.concatenate(coverage)


def _relative(got: NDArray[Any], want: NDArray[Any]) -> float:
    return float(np.abs(got - want).max()) / max(float(np.abs(want).max()), 1e-12)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def _complaints(result: Measurement, limits: Limits) -> list[str]:
    where = f"{result.sample} {result.network_size[0]}x{result.network_size[1]}, N={result.objects}"
    found = []
    for name in ("depth_error", "logit_error", "coverage_changed", "row_difference"):
        value, limit = getattr(result, name), getattr(limits, name)
        if not value <= limit:  # also true for NaN
            found.append(f"{where}: {name} is {value:.3g}; the limit is {limit:g}")
    if not result.mask_iou >= limits.mask_iou:
        found.append(f"{where}: mask IoU is {result.mask_iou:.5f}; at least {limits.mask_iou:g}")
    return found
