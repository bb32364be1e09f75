"""Which CUDA graphs are captured and kept, and how a click's inputs are laid out in memory.

A CUDA graph replays hundreds of kernel launches as one, but only for the shapes and addresses it
was captured with. So:

    buckets   N objects run as 1, 2, 4, ... 64 rows; padding rows are dropped from the result
    keys      a graph belongs to one patch grid and one bucket (0 rows: the encoder), a graph that
              packs masks to one image size and one bucket
    pool      a shape that is used again gets a graph; the most recently used graphs are kept
    layout    the inputs of a click are one block of bytes, so that one copy sends them

This module only decides: it uses neither a GPU nor PyTorch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import EMPTY, SLOTS
from ois_runtime.engines.pair import HostPrompts

BUCKETS = (1, 2, 4, 8, 16, 32, 64)

#: A graph is captured at this use of its shape. A capture takes as long as many plain runs, and
#: most shapes in a mixed folder of photographs occur only once.
CAPTURE_AT = 2

#: Alignment of each array in a block, in bytes, for vectorised loads and cuDNN.
_ALIGNMENT = 256


def bucket_of(count: int) -> int:
    """The smallest bucket with at least `count` rows, or the largest bucket."""
    return next((bucket for bucket in BUCKETS if bucket >= count), BUCKETS[-1])


def largest_bucket(most: int) -> int:
    """The largest bucket with at most `most` rows, or the smallest bucket."""
    return max((bucket for bucket in BUCKETS if bucket <= most), default=BUCKETS[0])


def batches(count: int, largest: int = BUCKETS[-1]) -> Iterator[tuple[slice, int]]:
    """The runs for `count` objects: which objects, and the bucket they run in.

    largest: the largest bucket to use, of `BUCKETS`.
    """
    for start in range(0, count, largest):
        rows = slice(start, min(count, start + largest))
        yield rows, bucket_of(rows.stop - rows.start)


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a graph was captured for. rows: the bucket; 0 for the encoder.

    grid: (gh, gw) in patches; for a graph that packs masks, (H, W) of the image in pixels.
    """

    grid: tuple[int, int]
    rows: int


Graph = TypeVar("Graph")


class GraphPool(Generic[Graph]):
    """Keeps the `capacity` most recently used graphs. Not thread-safe.

    A key gets a graph at its `capture_at`-th use. Each time it loses its graph, or a capture fails,
    it needs twice as many uses for the next capture. So if more shapes alternate than graphs are
    kept, captures become rare.
    """

    def __init__(
        self,
        capacity: int,
        capture_at: int = CAPTURE_AT,
        before_drop: Callable[[], object] = lambda: None,
    ) -> None:
        """before_drop: called before graphs are dropped, to wait until none of them is replayed."""
        self._capacity = capacity
        self._capture_at = capture_at
        self._before_drop = before_drop
        self._given_up: set[GraphKey] = set()
        self._graphs: OrderedDict[GraphKey, Graph] = OrderedDict()
        # One entry per grid and bucket: at most a thousand with the largest network.
        self._uses: dict[GraphKey, int] = {}
        self._setbacks: dict[GraphKey, int] = {}
        self.captures = self.replays = self.evictions = 0

    def get(self, key: GraphKey, capture: Callable[[], Graph]) -> Graph | None:
        """The graph of `key`, captured if it is time; None if it was not used often enough yet.

        If a graph must be evicted, this happens before the capture, which can then use its memory.
        If the capture fails, the pool has no graph for `key`.
        """
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            self.replays += 1
            return graph
        if key in self._given_up:
            return None
        self._uses[key] = self._uses.get(key, 0) + 1
        if self._uses[key] < self._capture_at << self._setbacks.get(key, 0):
            return None
        while len(self._graphs) >= max(1, self._capacity):
            self._before_drop()
            self._postpone(self._graphs.popitem(last=False)[0])
            self.evictions += 1
        try:
            graph = capture()
        except BaseException:
            self._postpone(key)
            raise
        self._graphs[key] = graph
        self.captures += 1
        return graph

    def find(self, key: GraphKey) -> Graph | None:
        """The graph of `key`, or None. Does not count as a use."""
        return self._graphs.get(key)

    def __contains__(self, key: GraphKey) -> bool:
        return key in self._graphs

    def __len__(self) -> int:
        return len(self._graphs)

    def grids(self) -> set[tuple[int, int]]:
        """The grids of the kept graphs."""
        return {key.grid for key in self._graphs}

    def give_up(self, key: GraphKey) -> None:
        """Never capture a graph for `key` again."""
        self._given_up.add(key)

    def clear(self) -> None:
        if self._graphs:
            self._before_drop()
        for key in self._graphs:
            self._postpone(key)
        self._graphs.clear()

    def _postpone(self, key: GraphKey) -> None:
        self._uses[key] = 0
        self._setbacks[key] = self._setbacks.get(key, 0) + 1


@dataclass(frozen=True, slots=True)
class Field:
    """One array in a block. offset: in bytes, a multiple of `_ALIGNMENT`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of arrays in one block of bytes. nbytes: the size of the block."""

    fields: tuple[Field, ...]
    nbytes: int

    @classmethod
    def of(cls, arrays: Mapping[str, tuple[tuple[int, ...], type[np.generic]]]) -> Layout:
        """Place arrays one after another. arrays: name -> (shape, dtype)."""
        fields, offset = [], 0
        for name, (shape, kind) in arrays.items():
            field = Field(name, shape, np.dtype(kind), offset)
            fields.append(field)
            offset += -(-field.nbytes // _ALIGNMENT) * _ALIGNMENT
        return cls(tuple(fields), offset)

    def views(self, block: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """The arrays in a block (nbytes,) uint8, as views."""
        return {
            field.name: block[field.offset : field.offset + field.nbytes]
            .view(field.dtype)
            .reshape(field.shape)
            for field in self.fields
        }


def prompt_layout(rows: int, coverage: tuple[int, int]) -> Layout:
    """The block for the prompts of `rows` objects. coverage: its shape for one object."""
    return Layout.of(
        {
            "points": ((rows, SLOTS, 2), np.float32),
            "labels": ((rows, SLOTS), np.int32),
            "coverage": ((rows, *coverage), np.uint8),
            "has_previous": ((rows,), np.bool_),
        }
    )


def fill_prompts(block: HostPrompts, prompts: HostPrompts | None) -> None:
    """Copy `prompts` (n rows) into `block` (a bucket's rows); rows beyond n become empty.

    An empty row has no click and no previous mask, so nothing of an earlier request stays.
    """
    rows = 0 if prompts is None else len(prompts.labels)
    if prompts is not None:
        for view, given in zip(block, prompts, strict=True):
            view[:rows] = given
    for view in block:
        view[rows:] = 0
    block.labels[rows:] = EMPTY
