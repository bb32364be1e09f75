"""How far one pair of engines is from another computation of the same thing, and how far it may.

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
    """How far engines may be from the reference."""

    depth_error: float = 1e-4
    logit_error: float = 1e-4
    mask_iou: float = 0.999
    coverage_changed: float = 0.02  # share of patches whose coverage differs by more than 2/255
    row_difference: float = 1e-5

    @classmethod
    def of(cls, precision: Precision) -> Limits:
        """What a precision may cost."""
        return _LIMITS[precision]

    def of_random_weights(self) -> Limits:
        """Wider: logits of a network that was never trained stay near the threshold everywhere, so
        the same rounding moves more of a mask. Rows must agree with each other as before.
        """
        return replace(
            self,
            depth_error=3 * self.depth_error,
            logit_error=5 * self.logit_error,
            mask_iou=max(0.5, 1 - 10 * (1 - self.mask_iou)),
            coverage_changed=5 * self.coverage_changed,
        )


# Half precision: some times what ois-tiny measures on the sample photographs (depth in bf16: 0.17
# at worst). A mask's border is where logits cross zero, so small masks lose more than their logits
# say: in bf16 the worst of sixteen random objects in a panorama comes to 0.935, where bf16 without
# fp32 islands leaves 0.45 of it.
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


@dataclass(frozen=True, slots=True)
class Reference:
    """What the other computation gives: depth (1, h, w), logits (N, h, w), coverage (N, gh, gw)."""

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
    """Run `engines` on one request, twice: once as it is, once with its last object N times."""
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


def judge(
    measured: Sequence[Measurement], limits: Limits, *, engines: str, reference: str
) -> dict[str, Any]:
    """The manifest's record of a comparison.

    Raises `ParityError` naming each case and number that is out of its limit.
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
    return float(np.abs(got - want).max()) / max(float(np.abs(want).max()), 1e-12)


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
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
