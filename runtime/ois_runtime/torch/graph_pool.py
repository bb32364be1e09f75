"""What a GPU keeps ready between clicks: decisions only, no GPU and no PyTorch in here.

A CUDA graph replays hundreds of kernel launches as one, but only for the shapes and addresses
it was captured with. So:

    buckets   N objects run as 1, 2, 4, ... 64 rows; the rows that pad a bucket are dropped
    keys      a graph belongs to a patch grid and a bucket (0 rows: the encoder's)
    pool      what is asked for again gets a graph; those used last are kept, up to a number
    layout    what a click sends and gets is one block of bytes each, so one copy each way
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

#: The use of a shape that captures its graph. A capture costs as much as many plain runs, and
#: most shapes of a mixed folder of photographs are seen once.
CAPTURE_AT = 2

#: Alignment of each array in a block: what vectorised loads and cuDNN like best.
_ALIGNMENT = 256


def bucket_of(count: int) -> int:
    """The smallest bucket that holds `count` rows, at most the largest."""
    return next((bucket for bucket in BUCKETS if bucket >= count), BUCKETS[-1])


def batches(count: int) -> Iterator[tuple[slice, int]]:
    """Runs that cover `count` objects: (which of them, the bucket they run in)."""
    for start in range(0, count, BUCKETS[-1]):
        rows = slice(start, min(count, start + BUCKETS[-1]))
        yield rows, bucket_of(rows.stop - rows.start)


@dataclass(frozen=True, slots=True)
class GraphKey:
    """grid: (gh, gw). rows: the bucket of a click, 0 for the encoder."""

    grid: tuple[int, int]
    rows: int


Graph = TypeVar("Graph")


class GraphPool(Generic[Graph]):
    """At most `capacity` graphs, those used last. Not locked: one thread at a time.

    A key gets a graph at its `capture_at`-th use. Each time it lost it, or could not be captured,
    it must be used twice as often before the next: where more shapes take turns than graphs are
    kept, captures become rare instead of following one another.
    """

    def __init__(self, capacity: int, capture_at: int = CAPTURE_AT) -> None:
        self._capacity = capacity
        self._capture_at = capture_at
        self._graphs: OrderedDict[GraphKey, Graph] = OrderedDict()
        # One entry a grid and bucket: at most a thousand with the largest network.
        self._uses: dict[GraphKey, int] = {}
        self._setbacks: dict[GraphKey, int] = {}
        self.captures = self.replays = self.evictions = 0

    def get(self, key: GraphKey, capture: Callable[[], Graph]) -> Graph | None:
        """The graph of `key`, captured when it is due; None: not used often enough, run plainly.

        The graph that gives way is let go *before* the capture, so that its memory serves it.
        A capture that fails leaves the pool without `key`.
        """
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            self.replays += 1
            return graph
        self._uses[key] = self._uses.get(key, 0) + 1
        if self._uses[key] < self._capture_at << self._setbacks.get(key, 0):
            return None
        while len(self._graphs) >= max(1, self._capacity):
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
        """The graph of `key` where there is one; that is no use of it."""
        return self._graphs.get(key)

    def __contains__(self, key: GraphKey) -> bool:
        return key in self._graphs

    def __len__(self) -> int:
        return len(self._graphs)

    def grids(self) -> set[tuple[int, int]]:
        """The grids that some kept graph belongs to."""
        return {key.grid for key in self._graphs}

    def clear(self) -> None:
        for key in self._graphs:
            self._postpone(key)
        self._graphs.clear()

    def _postpone(self, key: GraphKey) -> None:
        self._uses[key] = 0
        self._setbacks[key] = self._setbacks.get(key, 0) + 1


@dataclass(frozen=True, slots=True)
class Field:
    """One array in a block. offset: in bytes, a multiple of 256."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """Where arrays lie in one block of bytes. nbytes: of the block."""

    fields: tuple[Field, ...]
    nbytes: int

    @classmethod
    def of(cls, arrays: Mapping[str, tuple[tuple[int, ...], type[np.generic]]]) -> Layout:
        """name -> (shape, type), in this order."""
        fields, offset = [], 0
        for name, (shape, kind) in arrays.items():
            field = Field(name, shape, np.dtype(kind), offset)
            fields.append(field)
            offset += -(-field.nbytes // _ALIGNMENT) * _ALIGNMENT
        return cls(tuple(fields), offset)

    def views(self, block: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """block: (nbytes,) uint8 -> the arrays that lie in it; nothing is copied."""
        return {
            field.name: block[field.offset : field.offset + field.nbytes]
            .view(field.dtype)
            .reshape(field.shape)
            for field in self.fields
        }


def prompt_layout(rows: int, grid: tuple[int, int]) -> Layout:
    """The block of the prompts of `rows` objects, which a click sends to the device."""
    return Layout.of(
        {
            "points": ((rows, SLOTS, 2), np.float32),
            "labels": ((rows, SLOTS), np.int32),
            "coverage": ((rows, *grid), np.uint8),
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
