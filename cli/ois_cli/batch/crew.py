"""Who does the work of a batch: this process, or Ray's workers (`on_ray`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ois_client.contract.transport import ModelInfo

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Engines(Protocol[Item_contra, Result_co]):
    """Engines that are ready for work. info: the model."""

    @property
    def info(self) -> ModelInfo: ...

    def process(self, item: Item_contra) -> Iterable[Result_co]:
        """Yield the results of one item, at least one. An error that fails the item is a result.

        Raises the errors that end the run.
        """


class Work(Protocol[Item_contra, Result_co]):
    """What is to be done, as settings only, because it is sent to other processes."""

    def open(self) -> AbstractContextManager[Engines[Item_contra, Result_co]]:
        """Open the engines. Raises what opening them raises."""


@dataclass(frozen=True, slots=True)
class Crew(Generic[Item, Result]):
    """info: the model that all use. results: yields the results of items, in any order."""

    info: ModelInfo
    results: Callable[[Sequence[Item]], Iterator[Result]]


@contextmanager
def here(work: Work[Item, Result]) -> Iterator[Crew[Item, Result]]:
    """This process does the work, one item after another."""
    with work.open() as engines:
        yield Crew(
            engines.info, lambda items: (one for item in items for one in engines.process(item))
        )
