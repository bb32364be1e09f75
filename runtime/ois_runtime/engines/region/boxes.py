"""Which boxes of patches to decode: few, of few sizes, around everything that may be foreground."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import POSITIVE
from ois_runtime.engines.region.finish import REACH
from ois_runtime.engines.region.windows import CELLS, TailForm

#: Sides of boxes in patches; a side of the whole image is possible too. Engines prepare themselves
#: for each new size of a region, which takes much longer than a click.
SIDES = (2, 4, 6, 8, 10, 12, 15, 18, 22, 26, 30, 35, 40, 46, 53, 61, 70, 80, 92, 106, 122, 140)
#: What the tail on a region costs more, per area, than the tail on the whole image.
_REGION_COST = 1.3
#: A gap of this many patches may separate two boxes.
_GAP = 3


class Box(NamedTuple):
    """Rows top..bottom and columns left..right of patches, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def rows(self) -> int:
        return self.bottom - self.top

    @property
    def columns(self) -> int:
        return self.right - self.left


def active_patches(
    coarse: NDArray[np.float32],
    threshold: float,
    points: NDArray[np.float32],
    labels: NDArray[np.int32],
    patch: int,
) -> NDArray[np.bool_]:
    """Patches (gh, gw) that may contain foreground, or that a correction of a click may change.

    coarse: (4 gh, 4 gw). points, labels: of one object, see `Prompts`. Neighbours of patches whose
    coarse map exceeds the threshold are active too.
    """
    rows, columns = (side // CELLS for side in coarse.shape)
    blocks = (coarse > threshold).reshape(rows, CELLS, columns, CELLS)
    found = blocks.any(axis=(1, 3))
    near = np.pad(found, 1)
    active = near[:-2] | near[1:-1] | near[2:]
    active = active[:, :-2] | active[:, 1:-1] | active[:, 2:]
    for x, y in points[labels == POSITIVE]:
        top, bottom = (int(np.clip((y + way) // patch, 0, rows - 1)) for way in (-REACH, REACH))
        left, right = (int(np.clip((x + way) // patch, 0, columns - 1)) for way in (-REACH, REACH))
        active[top : bottom + 1, left : right + 1] = True
    return active


def boxes_around(active: NDArray[np.bool_], form: TailForm) -> list[Box] | None:
    """Boxes that contain every active patch, or None if decoding everything is cheaper."""
    rows, columns = active.shape
    whole = _cost(Box(0, 0, rows, columns), form, active.shape) / _REGION_COST
    boxes = list(_cut(active, Box(0, 0, rows, columns), form))
    if sum((_cost(box, form, active.shape) for box in boxes), start=0.0) >= whole:
        return None
    return boxes


def grown(box: Box, logits: NDArray[np.float32], patch: int) -> list[Box]:
    """What to decode beside `box`, because foreground touches an inner border of it.

    logits: (h, w) of the whole image, decoded in `box`.
    """
    top, left, bottom, right = box
    rows, columns = (side // patch for side in logits.shape)
    inside = logits[top * patch : bottom * patch, left * patch : right * patch] > 0
    down, across = max(2, box.rows // 4), max(2, box.columns // 4)
    more = []
    if top > 0 and inside[0].any():
        more.append(Box(max(0, top - down), left, top, right))
    if bottom < rows and inside[-1].any():
        more.append(Box(bottom, left, min(rows, bottom + down), right))
    if left > 0 and inside[:, 0].any():
        more.append(Box(top, max(0, left - across), bottom, left))
    if right < columns and inside[:, -1].any():
        more.append(Box(top, right, bottom, min(columns, right + across)))
    return [in_steps(each, (rows, columns)) for each in more]


def in_steps(box: Box, shape: tuple[int, ...]) -> Box:
    """A box of the next sizes of `SIDES` that contains `box`, within (gh, gw) `shape`."""
    top, bottom = _widen(box.top, box.bottom, shape[0])
    left, right = _widen(box.left, box.right, shape[1])
    return Box(top, left, bottom, right)


def _widen(start: int, stop: int, total: int) -> tuple[int, int]:
    number = bisect_left(SIDES, stop - start)
    size = min(SIDES[number] if number < len(SIDES) else total, total)
    first = min(max(start - (size - (stop - start)) // 2, 0), total - size)
    return first, first + size


def _cut(active: NDArray[np.bool_], box: Box, form: TailForm) -> Iterator[Box]:
    """Boxes around what is active in `box`; two instead of one where that is cheaper."""
    part = active[box.top : box.bottom, box.left : box.right]
    lines, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not lines.size:
        return
    tight = Box(
        box.top + int(lines[0]),
        box.left + int(columns[0]),
        box.top + int(lines[-1]) + 1,
        box.left + int(columns[-1]) + 1,
    )
    best = in_steps(tight, active.shape)
    for vertical, used in ((True, lines), (False, columns)):
        gaps = np.diff(used)
        if not gaps.size or gaps.max() <= _GAP:
            continue
        at = int(gaps.argmax())
        if vertical:
            first, second = box.top + int(used[at]) + 1, box.top + int(used[at + 1])
            halves = tight._replace(bottom=first), tight._replace(top=second)
        else:
            first, second = box.left + int(used[at]) + 1, box.left + int(used[at + 1])
            halves = tight._replace(right=first), tight._replace(left=second)
        single = _cost(best, form, active.shape)
        parts = [each for half in halves for each in _cut(active, half, form)]
        if sum((_cost(each, form, active.shape) for each in parts), start=0.0) < single:
            yield from parts
            return
    yield best


def _cost(box: Box, form: TailForm, shape: tuple[int, ...]) -> float:
    """The area of the box's windows, relative to one patch."""
    margin = 2 * form.margins[2] / CELLS
    rows, columns = min(box.rows + margin, shape[0]), min(box.columns + margin, shape[1])
    return _REGION_COST * rows * columns
