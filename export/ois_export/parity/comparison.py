"""Compares a pair of engines with a reference, and checks the differences against limits.

Errors are max |difference| over max |reference|. Masks are compared at network size. Needs no
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import ParityError
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.pair import EnginePair, HostPrompts

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest allowed differences from the reference.

    coverage_changed: share of patches whose coverage differs by more than 2/255.
    row_difference: between the logits of identical objects in one call.
    """

    depth_error: float = 1e-4
    logit_error: float = 1e-4
    mask_iou: float = 0.999
    coverage_changed: float = 0.02
    row_difference: float = 1e-5

    @classmethod
    def of(cls, precision: Precision) -> Limits:
        """Return the limits of a precision."""
        return _LIMITS[precision]

    def of_random_weights(self) -> Limits:
        """Return wider limits for an untrained network.

        Its logits are near the threshold everywhere, so the same rounding changes more of a mask.
        The limit between identical rows stays.
        """
        return replace(
            self,
            depth_error=3 * self.depth_error,
            logit_error=5 * self.logit_error,
            mask_iou=max(0.5, 1 - 10 * (1 - self.mask_iou)),
            coverage_changed=5 * self.coverage_changed,
        )


# The limits of half precision are a small multiple of what ois-tiny measures on the sample
# photographs (the largest depth error in bf16 is 0.17). Rounding moves a mask's border, which
# costs small masks more IoU than large ones: in bf16 the worst of 16 random objects in a panorama
# has 0.935. Without the fp32 islands it has 0.45.
_LIMITS = {
    Precision.FP32: Limits(),
    Precision.FP16: Limits(depth_error=5e-3, logit_error=3e-3, mask_iou=0.995, row_difference=1e-3),
    Precision.BF16: Limits(
        depth_error=0.25,
        logit_error=5e-2,
        mask_iou=0.9,
        coverage_changed=0.15,
        row_difference=1e-2,
    ),
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """The differences in one case, in JSON types, as the manifest records them."""

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


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference's results: depth (1, h, w), logits (N, h, w), coverage (N, gh, gw)."""

    depth: NDArray[np.float32]
    logits: NDArray[np.float32]
    coverage: NDArray[np.uint8]


def compare(
    engines: EnginePair,
    sample: str,
    image: NDArray[np.uint8],
    geometry: Geometry,
    prompts: HostPrompts,
    reference: Callable[[], Reference],
) -> Measurement:
    """Run `engines` on one request and measure the differences from the reference.

    The request runs a second time with its last object repeated N times, for `row_difference`.
    """
    count = len(prompts.labels)
    state = engines.encode(image, geometry)
    logits, coverage = engines.decode(state, prompts)
    same = prompts.map(lambda array: np.repeat(array[-1:], count, axis=0))
    rows = engines.decode(state, same)[0] if count > 1 else logits
    want = reference()
    changed = np.abs(coverage.astype(int) - want.coverage.astype(int)) > 2
    scale = float(np.abs(want.logits).max())
    return Measurement(
        sample=sample,
        network_size=(geometry.network_width, geometry.network_height),
        objects=count,
        clicks=int((prompts.labels >= 0).sum(1).max()),
        with_previous=int(prompts.has_previous.sum()),
        depth_error=relative_error(state.arrays["depth"], want.depth),
        logit_error=relative_error(logits, want.logits),
        mask_iou=min(
            mask_iou(got > 0, expected > 0)
            for got, expected in zip(logits, want.logits, strict=True)
        ),
        coverage_changed=float(changed.mean()),
        row_difference=float(np.abs(rows - rows[:1]).max()) / scale if count > 1 else 0.0,
    )


def check_limits(
    measured: Sequence[Measurement], limits: Limits, *, engines: str, reference: str
) -> dict[str, Any]:
    """Return the manifest's record of a comparison.

    Raises `ParityError` naming each value that exceeds its limit.
    """
    broken = [text for result in measured for text in _complaints(result, limits)]
    if broken:
        raise ParityError(
            f"the engines ({engines}) differ from {reference}; nothing was written:\n  "
            + "\n  ".join(broken)
        )
    return {
        "engines": engines,
        "reference": reference,
        "limits": asdict(limits),
        "cases": [asdict(result) for result in measured],
    }


def relative_error(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Return max |got - want| over max |want|."""
    return float(np.abs(got - want).max()) / max(float(np.abs(want).max()), 1e-12)


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the intersection over union; 1 if both masks are empty."""
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def _complaints(result: Measurement, limits: Limits) -> list[str]:
    where = f"{result.sample} {result.network_size[0]}x{result.network_size[1]}, N={result.objects}"
    found = []
    for name in ("depth_error", "logit_error", "coverage_changed", "row_difference"):
        value, limit = getattr(result, name), getattr(limits, name)
        if not value <= limit:  # also true for NaN
            found.append(f"{where}: {name} is {value:.3g}; the limit is {limit:g}")
    iou, limit = result.mask_iou, limits.mask_iou
    if not iou >= limit:
        found.append(f"{where}: mask IoU is {iou:.5f}; the limit is {limit:g}")
    return found
