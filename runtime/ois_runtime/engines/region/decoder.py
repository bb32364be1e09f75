"""A click on a region: the trunk, a choice of boxes, the tail on each box, growth.

    trunk ─► path, coarse ─► boxes of patches ─► a tail on each ─► logits
                                 ▲                                   │ foreground at a border
                                 └───────────────────────────────────┘

Inside the boxes the logits are those of the whole decoder. Outside they are `OUTSIDE`: background,
without a statement of how certain that is.

`RegionDecoder.coarse` stops after the trunk, for those who want to see something first. The click
that follows finds the trunk's results (`sharing.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import EMPTY
from ois_client.contract.errors import EngineError
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.pair import Graph, HostPrompts, check_prompts
from ois_runtime.engines.region.boxes import (
    Box,
    active_patches,
    boxes_around,
    grown,
    in_steps,
)
from ois_runtime.engines.region.finish import coverage_of, keep_clicks
from ois_runtime.engines.region.sharing import TrunkResult, TrunkResults
from ois_runtime.engines.region.windows import CELLS, TailForm, Windows

#: The logit of every pixel that was not decoded.
OUTSIDE = -16.0
#: How often a region may grow before everything is decoded.
_MOST_GROWTHS = 4

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionForm:
    """What the parts of a decoder have in common. threshold: of the coarse map.

    keep_clicks: whether clicked pixels are corrected. cell: network pixels per cell of coverage.
    """

    tail: TailForm
    cell: int
    keep_clicks: bool
    threshold: float


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """logits (N, h, w) float32, coverage as the prompts', and the boxes of each object.

    None instead of boxes: the whole image was decoded.
    """

    logits: Logits
    coverage: NDArray[np.uint8]
    boxes: tuple[tuple[Box, ...] | None, ...]


class RegionDecoder:
    """Three graphs that are a click decoder together. Thread-safe if they are.

    trunk: image state and prompts -> path, coarse. tail: path (and details) -> logits.
    crop: the same on a crop, with the matrices of `Windows`.
    """

    def __init__(self, form: RegionForm, trunk: Graph, tail: Graph, crop: Graph) -> None:
        self.form = form
        self._trunk, self._tail, self._crop = trunk, tail, crop
        self._results = TrunkResults()

    def coarse(self, state: ImageState, prompts: HostPrompts) -> Logits:
        """An estimate of the logits, (N, 4 gh, 4 gw): above 0 is object.

        Costs the trunk alone, and `decode` with the same prompts does not run it again. Clicked
        cells are right if the network corrects clicked pixels.
        Raises `InvalidInput` if a prompt array has the wrong shape or type.
        """
        check_prompts(prompts, state.geometry)
        with self._trunk_of(state, prompts, keep=True) as found:
            coarse = found.coarse.copy()
        if self.form.keep_clicks:
            cell = state.geometry.patch / CELLS
            for one, points, labels in zip(coarse, prompts.points, prompts.labels, strict=True):
                keep_clicks(one, (points + 0.5) / cell - 0.5, labels)
        return coarse

    def decode(
        self,
        state: ImageState,
        prompts: HostPrompts,
        *,
        whole: bool = False,
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> Decoded:
        """Segment the N objects of `prompts`.

        whole: decode everything. boxes: decode these patches of each object, without growth,
        instead of those that the coarse map names.
        Raises `InvalidInput` if a prompt array has the wrong shape or type.
        """
        geometry = state.geometry
        check_prompts(prompts, geometry)
        with self._trunk_of(state, prompts, keep=False) as found:
            return self._decode(state, prompts, found, whole, boxes)

    def _decode(
        self,
        state: ImageState,
        prompts: HostPrompts,
        found: TrunkResult,
        whole: bool,
        boxes: Sequence[Sequence[Box]] | None,
    ) -> Decoded:
        path, coarse, geometry = found.path, found.coarse, state.geometry
        size = (geometry.network_height, geometry.network_width)
        count = len(prompts.labels)
        shape = (geometry.grid_height, geometry.grid_width)
        chosen: list[list[Box] | None] = [None] * count
        if boxes is not None:
            chosen = [[in_steps(box, shape) for box in each] for each in boxes]
        elif not whole:
            chosen = [
                boxes_around(
                    active_patches(
                        coarse[row],
                        self.form.threshold,
                        prompts.points[row],
                        prompts.labels[row],
                        geometry.patch,
                    ),
                    self.form.tail,
                )
                for row in range(count)
            ]
        logits = np.empty((count, *size), dtype=np.float32)
        for row, own in enumerate(chosen):
            if own is not None:
                logits[row] = OUTSIDE
                done = self._regions(state, path[row : row + 1], own, logits[row], boxes is None)
                chosen[row] = done
        rest = [row for row, own in enumerate(chosen) if own is None]
        if rest:
            logits[rest] = self._whole(state, path if len(rest) == count else path[rest])
        return Decoded(
            logits,
            self._finish(logits, prompts, chosen),
            tuple(None if own is None else tuple(own) for own in chosen),
        )

    def _trunk_of(
        self, state: ImageState, prompts: HostPrompts, *, keep: bool
    ) -> AbstractContextManager[TrunkResult]:
        return self._results.shared(
            state, prompts, lambda: self._run_trunk(state, prompts), keep=keep
        )

    def _run_trunk(self, state: ImageState, prompts: HostPrompts) -> TrunkResult:
        feeds = {**self._maps(state), **prompts.named()}
        names = self._trunk.inputs or feeds
        found = self._trunk.run({name: feeds[name] for name in names})
        path, coarse = found["path"], np.asarray(found["coarse"], dtype=np.float32)
        geometry, count = state.geometry, len(prompts.labels)
        grid = (geometry.grid_height, geometry.grid_width)
        if path.shape[::2] != (count, CELLS * grid[0]) or path.shape[3] != CELLS * grid[1]:
            raise EngineError(
                f"the trunk returned a path of shape {path.shape}; expected {count} objects and "
                f"{CELLS} cells per patch of {grid}. The engines are not from one export"
            )
        return TrunkResult(path, coarse)

    def _whole(self, state: ImageState, path: NDArray[Any]) -> Logits:
        maps = state.arrays
        feeds = {n: path if n == "path" else maps[n] for n in self._tail.inputs}
        return np.asarray(self._tail.run(feeds)["logits"])

    def _maps(self, state: ImageState) -> Mapping[str, Any]:
        """The image state as the trunk takes it."""
        return state.arrays

    def _regions(
        self, state: ImageState, path: NDArray[Any], boxes: list[Box], logits: Logits, grow: bool
    ) -> list[Box] | None:
        """Decode the boxes into logits (h, w). Returns all boxes, or None to decode everything."""
        done: list[Box] = []
        waiting = boxes
        patch = self.form.tail.patch
        for _ in range(_MOST_GROWTHS):
            for box in waiting:
                self._one(state, path, box, logits)
            done += waiting
            if not grow:
                return done
            more = [each for box in waiting for each in grown(box, logits, patch)]
            waiting = [box for box in dict.fromkeys(more) if not _decoded(box, logits, patch)]
            if not waiting:
                return done
        return None

    def _one(self, state: ImageState, path: NDArray[Any], box: Box, logits: Logits) -> None:
        tail, geometry = self.form.tail, state.geometry
        rows = Windows.of(tail, geometry.grid_height, box.top, box.rows)
        columns = Windows.of(tail, geometry.grid_width, box.left, box.columns)
        feeds = crop_feeds(tail, path, state.arrays, rows, columns)
        result = self._crop.run(feeds)["logits"]
        patch = tail.patch
        logits[box.top * patch : box.bottom * patch, box.left * patch : box.right * patch] = result[
            0, rows.inner, columns.inner
        ]

    def _finish(
        self, logits: Logits, prompts: HostPrompts, boxes: Sequence[list[Box] | None]
    ) -> NDArray[np.uint8]:
        coverage = np.zeros(prompts.coverage.shape, dtype=np.uint8)
        patch, cell = self.form.tail.patch, self.form.cell
        per_patch = patch // cell
        for row, own in enumerate(boxes):
            one = logits[row]
            if self.form.keep_clicks:
                points = prompts.points[row]
                labels = np.where(_decoded_at(one, points), prompts.labels[row], EMPTY)
                keep_clicks(one, points, labels)
            whole = Box(0, 0, one.shape[0] // patch, one.shape[1] // patch)
            for top, left, bottom, right in [whole] if own is None else own:
                part = one[top * patch : bottom * patch, left * patch : right * patch]
                coverage[
                    row,
                    top * per_patch : bottom * per_patch,
                    left * per_patch : right * per_patch,
                ] = coverage_of(part, cell)
        return coverage


def crop_feeds(
    tail: TailForm,
    path: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    rows: Windows,
    columns: Windows,
) -> dict[str, NDArray[Any]]:
    """The inputs of the tail on a crop. path: (1, f, 4 gh, 4 gw); maps: the image state."""
    feeds = {"path": np.ascontiguousarray(path[:, :, rows.path, columns.path])}
    if tail.detail is not None:
        detail = maps[tail.detail]
        feeds[tail.detail] = np.ascontiguousarray(detail[:, :, rows.output, columns.output])
    return {**feeds, **rows.named("rows"), **columns.named("columns")}


def _decoded_at(logits: Logits, points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the pixels of points (P, 2) were decoded. The others are background as they are."""
    height, width = logits.shape
    columns = np.clip(np.round(points[:, 0]), 0, width - 1).astype(np.int64)
    rows = np.clip(np.round(points[:, 1]), 0, height - 1).astype(np.int64)
    decoded: NDArray[np.bool_] = logits[rows, columns] != OUTSIDE
    return decoded


def _decoded(box: Box, logits: Logits, patch: int) -> bool:
    """Whether all pixels of the box were decoded."""
    part = logits[box.top * patch : box.bottom * patch, box.left * patch : box.right * patch]
    return bool((part != OUTSIDE).all())
