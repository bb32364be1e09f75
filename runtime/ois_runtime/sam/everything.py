"""Masks of everything in a photograph, by a SAM-family network: the labels of `ois label`.

One click at each point of a grid; masks that the network itself rates low, that change with the
threshold, or that repeat another mask are dropped. Nested masks are kept: a wheel and its car are
both objects that a person may click on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import Mask, coco_of_mask
from ois_client.formats.cvat import box_of_mask
from ois_client.sam.automatic import point_grid
from ois_client.sam.logits import stability
from ois_runtime.sam.pair import Answer, SamPair


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """points_per_side: clicks along each side of the grid.

    least_iou: lowest IoU that the network predicts for its own mask.
    least_stability: lowest IoU of the masks cut at logits of +1 and -1.
    duplicate_iou: of two masks with a higher IoU than this, the one rated higher stays.
    least_share, most_share: of the photograph's area.
    """

    points_per_side: int = 16
    least_iou: float = 0.86
    least_stability: float = 0.9
    duplicate_iou: float = 0.8
    least_share: float = 4e-4
    most_share: float = 0.9

    def __post_init__(self) -> None:
        if self.points_per_side < 1:
            raise InvalidInput(f"got points_per_side={self.points_per_side}; expected at least 1")
        for name in ("least_iou", "least_stability", "duplicate_iou", "least_share", "most_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"got {name}={getattr(self, name)}; expected 0 to 1")
        if self.least_share >= self.most_share:
            raise InvalidInput(
                f"got least_share={self.least_share} and most_share={self.most_share}; expected "
                "the first to be smaller"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """One mask. rle: COCO's, compressed. box: x, y, width, height. point: the click, (x, y).

    score: predicted IoU times stability.
    """

    rle: dict[str, Any]
    area: int
    box: tuple[int, int, int, int]
    point: tuple[float, float]
    predicted_iou: float
    stability: float

    @property
    def score(self) -> float:
        return self.predicted_iou * self.stability


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    answer: Answer
    small: NDArray[np.bool_]  # the mask at the size of the logits
    stability: float
    point: tuple[float, float]

    @property
    def score(self) -> float:
        return self.answer.predicted_iou * self.stability


def label_photograph(
    image: NDArray[np.uint8],
    teacher: SamPair,
    options: LabelOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Label]:
    """image: (H, W, 3) uint8 RGB -> its masks, the best first.

    on_progress: called with the number of clicks made and the number in all.
    """
    height, width = image.shape[:2]
    embedding = teacher.encode(image)
    points = point_grid(options.points_per_side, width, height)
    candidates = []
    for number, (x, y) in enumerate(points.tolist(), start=1):
        found = _candidate(teacher.decode(embedding, [Click(x, y)]), (x, y), options)
        if found is not None:
            candidates.append(found)
        if on_progress is not None:
            on_progress(number, len(points))
    candidates.sort(key=lambda candidate: -candidate.score)
    kept = [candidates[index] for index in distinct(candidates, options.duplicate_iou)]
    return [label for one in kept if (label := _label(one, width, height)) is not None]


def distinct(candidates: list[_Candidate], iou_thresh: float) -> list[int]:
    """The best first -> indices of those whose IoU with every kept one is at most `iou_thresh`."""
    kept: list[int] = []
    rows: list[NDArray[np.float32]] = []
    for index, candidate in enumerate(candidates):
        flat = candidate.small.ravel().astype(np.float32)
        if rows:
            others = np.stack(rows)
            common = others @ flat
            union = others.sum(axis=1) + flat.sum() - common
            if (common > iou_thresh * union).any():
                continue
        kept.append(index)
        rows.append(flat)
    return kept


def _candidate(
    answer: Answer, point: tuple[float, float], options: LabelOptions
) -> _Candidate | None:
    small = answer.logits > 0
    share = float(small.mean())
    if answer.predicted_iou < options.least_iou:
        return None
    if not options.least_share <= share <= options.most_share:
        return None
    stable = float(stability(answer.logits[None], 1.0)[0])
    if stable < options.least_stability:
        return None
    return _Candidate(answer, small, stable, point)


def _label(candidate: _Candidate, width: int, height: int) -> Label | None:
    from PIL import Image

    large = Image.fromarray(candidate.answer.logits).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    mask: Mask = (np.asarray(large) > 0).astype(np.uint8)
    if not mask.any():
        return None
    left, top, right, bottom = box_of_mask(mask)
    return Label(
        coco_of_mask(mask),
        int(mask.sum(dtype=np.int64)),
        (left, top, right - left + 1, bottom - top + 1),
        candidate.point,
        candidate.answer.predicted_iou,
        candidate.stability,
    )
