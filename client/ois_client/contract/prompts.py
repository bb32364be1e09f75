"""The prompt of one decoder call: the clicks on N objects and their previous masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

#: The names of the arrays, in order. Exported graphs use them for their inputs.
PROMPT_NAMES = ("points", "labels", "coverage", "has_previous")

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True, eq=False)
class Prompts(Generic[A]):
    """Four arrays of one type: NumPy arrays (`Prompts[NDArray]`) or tensors (`Prompts[Tensor]`).

    points: (N, 48, 2) float32, (x, y) in network pixels.
    labels: (N, 48) int32; 1 positive, 0 negative, -1 empty slot.
    coverage: (N, gh, gw) uint8, how much of each patch the previous mask covers (`coverage.py`).
    has_previous: (N) bool; where it is False, coverage is ignored.
    """

    points: A
    labels: A
    coverage: A
    has_previous: A

    def __iter__(self) -> Iterator[A]:
        """The arrays in the order of `PROMPT_NAMES`, for calls with four arguments."""
        return iter((self.points, self.labels, self.coverage, self.has_previous))

    def named(self) -> dict[str, A]:
        """The arrays by name, in the order of `PROMPT_NAMES`."""
        return dict(zip(PROMPT_NAMES, self, strict=True))

    def map(self, function: Callable[[A], B]) -> Prompts[B]:
        """A new prompt with `function` applied to each array."""
        return Prompts(*map(function, self))
