"""Masks of everything in an image, as in SAM's "everything" mode: one click per grid point.

grid of clicks ─► N objects per request ─► drop low scores ─► drop duplicates ─► records
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import POSITIVE
from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import ImageSource
from ois_client.contract.masks import Mask, coco_of_mask, mask_of_coco
from ois_client.contract.transport import ClickRequest
from ois_client.formats.cvat import box_of_mask
from ois_client.sam.logits import mean_probability, stability
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session


class OutputMode(StrEnum):
    """The form of a record's `segmentation`, by SAM's names."""

    BINARY_MASK = "binary_mask"  # (H, W) bool
    UNCOMPRESSED_RLE = "uncompressed_rle"  # COCO's, counts as a list
    COCO_RLE = "coco_rle"  # COCO's, counts as a string


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticOptions:
    """Options of the mask generator. Options with SAM's meaning have SAM's names.

    points_per_side: clicks along each side of the image.
    points_per_batch: objects per request; servers accept 32 by default.
    score_thresh: smallest mean probability of a mask's pixels (see `mean_probability`).
    stability_score_thresh, stability_score_offset: smallest IoU of the masks thresholded at
    +offset and -offset (see `stability`). The default keeps all masks, because SAM's 0.95 is for
    SAM's logits: `ois-tiny` has 0.2 to 0.9 on photographs. Look at your network's scores first.
    box_nms_thresh: of masks whose boxes have a larger IoU than this, the one with the highest
    score is kept.
    """

    points_per_side: int = 16
    points_per_batch: int = 16
    score_thresh: float = 0.0
    stability_score_thresh: float = 0.0
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    output_mode: OutputMode | str = OutputMode.BINARY_MASK

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"got {name}={getattr(self, name)}; expected at least 1")
        for name in ("score_thresh", "stability_score_thresh", "box_nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"got {name}={getattr(self, name)}; expected 0 to 1")
        if not self.stability_score_offset >= 0:
            raise InvalidInput(
                f"got stability_score_offset={self.stability_score_offset}; expected 0 or more"
            )
        if self.output_mode not in list(OutputMode):
            raise InvalidInput(
                f"got output_mode={self.output_mode!r}; expected one of {', '.join(OutputMode)}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A mask above the thresholds. It is kept as COCO RLE so that 256 large masks fit in memory."""

    point: tuple[float, float]
    rle: dict[str, Any]
    area: int
    box: tuple[int, int, int, int]  # left, top, width, height
    score: float
    stability: float


class OISAutomaticMaskGenerator:
    """Replaces `SamAutomaticMaskGenerator`. `supervision.Detections.from_sam` reads its records.

        records = OISAutomaticMaskGenerator(client).generate("photo.jpg")

    Each object has one positive click and no previous mask. SAM's crops and its removal of small
    regions are not supported.
    """

    def __init__(self, client: Client, **options: Any) -> None:
        """options: see `AutomaticOptions`. Raises `InvalidInput` if one is wrong."""
        self._client = client
        try:
            self._options = AutomaticOptions(**options)
        except TypeError as error:
            raise InvalidInput(
                f"{error}; expected some of {', '.join(AutomaticOptions.__slots__)}"
            ) from error

    def generate(
        self, image: ImageSource, on_progress: Callable[[int, int], None] | None = None
    ) -> list[dict[str, Any]]:
        """Segment everything -> one record per mask, highest score first.

        image: see `load_image`. on_progress: called with the number of clicks done and of all
        clicks.

        A record has SAM's keys: `segmentation` (see `OutputMode`), `area` in pixels, `bbox` (x,
        y, width, height in whole pixels), `point_coords` [[x, y]], `stability_score`, `crop_box`
        (always the whole image). Instead of SAM's `predicted_iou`, which this network does not
        predict, it has `score`. Raises what `Client.open` and `Session.click` raise.
        """
        session = self._client.open(image)
        kept: list[_Candidate] = []
        points = point_grid(self._options.points_per_side, *_size(session))
        for start in range(0, len(points), self._options.points_per_batch):
            batch = points[start : start + self._options.points_per_batch]
            kept += self._candidates(session, batch)
            if on_progress is not None:
                on_progress(start + len(batch), len(points))
        kept.sort(key=lambda candidate: -candidate.score)
        boxes = np.array([candidate.box for candidate in kept], dtype=np.float64).reshape(-1, 4)
        chosen = distinct_boxes(boxes, self._options.box_nms_thresh)
        return [self._record(kept[index], *_size(session)) for index in chosen]

    def _candidates(self, session: Session, points: NDArray[np.float32]) -> Iterator[_Candidate]:
        """points: (N, 2), (x, y) in image pixels."""
        fit, count = session.geometry, len(points)
        reply = session.send(
            ClickRequest(
                session.picture.digest,
                points[:, None],
                np.full((count, 1), POSITIVE, dtype=np.int32),
                np.zeros((count, fit.grid_height, fit.grid_width), dtype=np.uint8),
                np.zeros(count, dtype=bool),
                want_logits=True,
                session=session.id,
            )
        )
        if reply.logits is None:
            raise InvalidInput("the transport returned no logits although they were requested")
        scores = mean_probability(reply.logits)
        stable = stability(reply.logits, self._options.stability_score_offset)
        enough = (scores >= self._options.score_thresh) & (
            stable >= self._options.stability_score_thresh
        )
        for index in np.flatnonzero(enough):
            mask: Mask = reply.masks[index]
            if mask.any():
                left, top, right, bottom = box_of_mask(mask)
                x, y = points[index].tolist()
                yield _Candidate(
                    (x, y),
                    coco_of_mask(mask),
                    int(mask.sum(dtype=np.int64)),
                    (left, top, right - left + 1, bottom - top + 1),
                    float(scores[index]),
                    float(stable[index]),
                )

    def _record(self, found: _Candidate, width: int, height: int) -> dict[str, Any]:
        segmentation: Any = found.rle
        if self._options.output_mode != OutputMode.COCO_RLE:
            mask = mask_of_coco(found.rle)
            segmentation = (
                mask.astype(bool)
                if self._options.output_mode == OutputMode.BINARY_MASK
                else coco_of_mask(mask, compressed=False)
            )
        return {
            "segmentation": segmentation,
            "area": found.area,
            "bbox": list(found.box),
            "point_coords": [list(found.point)],
            "score": found.score,
            "stability_score": found.stability,
            "crop_box": [0, 0, width, height],
        }


def point_grid(per_side: int, width: int, height: int) -> NDArray[np.float32]:
    """The centres of per_side x per_side equal cells, row by row: (N, 2), (x, y), image pixels."""
    at = (np.arange(per_side) + 0.5) / per_side
    x = np.clip(at * width - 0.5, 0, width - 1)
    y = np.clip(at * height - 0.5, 0, height - 1)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)


def distinct_boxes(boxes: NDArray[np.float64], iou_thresh: float) -> list[int]:
    """Non-maximum suppression -> the indices of the boxes to keep.

    boxes: (N, 4) as x, y, width, height, best first. A box is kept if its IoU with every box kept
    before it is at most `iou_thresh`.
    """
    kept: list[int] = []
    start, stop = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = boxes[:, 2] * boxes[:, 3]
    for index in range(len(boxes)):
        sides = np.minimum(stop[index], stop[kept]) - np.maximum(start[index], start[kept])
        common = np.clip(sides, 0, None).prod(axis=1)
        if (common <= iou_thresh * (areas[index] + areas[kept] - common)).all():
            kept.append(index)
    return kept


def _size(session: Session) -> tuple[int, int]:
    return session.picture.width, session.picture.height
