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
from ois_client.sam.model import OISModel, client_of
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session

NO_PREDICTED_IOU = (
    "This network predicts no IoU. Use score_thresh, the smallest mean probability of a mask, or "
    "stability_score_thresh; SAM's values do not carry over"
)
NO_CROPS = "Masks of crops are not supported. Raise points_per_side to find smaller objects"
NO_GRIDS = "Only regular grids are supported. Use points_per_side, or Session.click for own points"
NO_SMALL_REGIONS = (
    "Small regions are not removed. Do that on the records, for example with "
    "cv2.connectedComponentsWithStats"
)


class OutputMode(StrEnum):
    """The form of a record's `segmentation`, by SAM's names."""

    BINARY_MASK = "binary_mask"  # (H, W) bool
    UNCOMPRESSED_RLE = "uncompressed_rle"  # COCO's, counts as a list
    COCO_RLE = "coco_rle"  # COCO's, counts as a string


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options that have an effect. `OISAutomaticMaskGenerator` explains them."""

    points_per_side: int
    points_per_batch: int
    score_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    output_mode: OutputMode | str

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch"):
            count = getattr(self, name)
            if not isinstance(count, int | np.integer) or count < 1:
                raise InvalidInput(f"got {name}={count!r}; expected a whole number, 1 or more")
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

    Each object has one positive click and no previous mask.
    """

    def __init__(
        self,
        model: Client | OISModel,
        points_per_side: int = 16,
        points_per_batch: int = 16,
        pred_iou_thresh: float = 0.0,
        stability_score_thresh: float = 0.0,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,  # noqa: ARG002 - SAM's names; no effect without crops
        crop_overlap_ratio: float = 512 / 1500,  # noqa: ARG002
        crop_n_points_downscale_factor: int = 1,  # noqa: ARG002
        point_grids: object = None,
        min_mask_region_area: float = 0,
        output_mode: OutputMode | str = OutputMode.BINARY_MASK,
        *,
        score_thresh: float = 0.0,
    ) -> None:
        """The names and the order are SAM's, the defaults are not.

        model: a client, or an `OISModel`.
        points_per_side: clicks along each side of the image.
        points_per_batch: objects per request; servers accept 32 by default.
        stability_score_thresh, stability_score_offset: smallest IoU of the masks thresholded at
        +offset and -offset (see `stability`). The default keeps all masks, because SAM's 0.95 is
        for SAM's logits: `ois-tiny` has 0.2 to 0.9 on photographs. Look at your network's scores
        first.
        box_nms_thresh: of masks whose boxes have a larger IoU than this, the one with the highest
        score is kept.
        crop_nms_thresh, crop_overlap_ratio, crop_n_points_downscale_factor: no effect, as in SAM
        without crops.
        score_thresh: smallest mean probability of a mask's pixels (see `mean_probability`).

        Raises `InvalidInput` if a value is wrong. What this network does not do is refused:
        `pred_iou_thresh`, `crop_n_layers` and `min_mask_region_area` must be 0, `point_grids`
        None.
        """
        for name, value, neutral, advice in (
            ("pred_iou_thresh", pred_iou_thresh, 0, NO_PREDICTED_IOU),
            ("crop_n_layers", crop_n_layers, 0, NO_CROPS),
            ("point_grids", point_grids, None, NO_GRIDS),
            ("min_mask_region_area", min_mask_region_area, 0, NO_SMALL_REGIONS),
        ):
            # `is`, because `==` of an array of points is not a bool
            if value is not neutral and not (np.isscalar(value) and value == neutral):
                raise InvalidInput(f"got {name}={str(value)[:40]}; expected {neutral}. {advice}")
        self._client = client_of(model)
        self._options = _Options(
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            score_thresh=score_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            output_mode=output_mode,
        )

    def generate(
        self, image: ImageSource, on_progress: Callable[[int, int], None] | None = None
    ) -> list[dict[str, Any]]:
        """Segment everything -> one record per mask, highest score first.

        image: see `load_image`. on_progress: called with the number of clicks done and of all
        clicks.

        A record has SAM's keys: `segmentation` (see `OutputMode`), `area` in pixels, `bbox` (x,
        y, width, height in whole pixels), `point_coords` [[x, y]], `stability_score`, `crop_box`
        (always the whole image), and `predicted_iou`. This network does not predict an IoU: code
        that was written for SAM finds the mask's mean probability there, which is also under
        `score`. Raises what `Client.open` and `Session.click` raise.
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
                np.zeros((count, *fit.coverage_shape), dtype=np.uint8),
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
            # SAM's key, for code that reads it; the docstring of `generate` says what it is here
            "predicted_iou": found.score,
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
