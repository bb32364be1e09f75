"""Batch commands: progress with the remaining time, and errors that fail one item, not the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ois_cli.output import as_ois_error, say
from ois_client.contract.errors import (
    AccessDenied,
    IncompatibleServer,
    OISError,
    OutputError,
    ServerUnavailable,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

#: Exit code of a run that finished, but some items failed.
EXIT_INCOMPLETE = 3

#: Errors that end the run, because every further item would fail in the same way.
_FATAL = (ServerUnavailable, AccessDenied, IncompatibleServer, OutputError)

_LINE_EVERY_S = 10.0
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed. item: the fields that identify it in a report: image, line, id."""

    item: dict[str, Any]
    error: OISError

    def to_dict(self) -> dict[str, Any]:
        return {**self.item, "code": self.error.code, "message": str(self.error)}

    def __str__(self) -> str:
        name = ", ".join(f"{key} {value}" for key, value in self.item.items() if value is not None)
        return f"{name}: {self.error} ({self.error.code})"


def error_of_item(error: Exception) -> OISError:
    """Return the typed error of a failed item.

    Raises `error` itself if it ends the run, or if it is a defect of this program.
    """
    known = as_ois_error(error)
    if known is None or isinstance(known, _FATAL):
        raise error
    return known


def say_failures(failures: list[Failure], rest: str) -> None:
    """Print the first 20 failures to stderr. rest: says where the full list is."""
    for failure in failures[:_SHOWN]:
        say(f"failed: {failure}")
    if len(failures) > _SHOWN:
        say(f"failed: {len(failures) - _SHOWN} more{rest}")


class Counter:
    """Shows progress: a bar on a terminal, otherwise a line every ten seconds."""

    def __init__(
        self, verb: str, total: int, bar: Bar | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.done = self.failed = 0
        self._verb, self._total, self._bar, self._clock = verb, total, bar, clock
        self._task = None if bar is None else bar.add_task(verb, total=total, failed="")
        self._began = self._said = clock()

    def add(self, done: int = 1, *, failed: int = 0) -> None:
        """Count `done` more items, of which `failed` failed."""
        self.done += done
        self.failed += failed
        if self._bar is not None and self._task is not None:
            text = f"{self.failed} failed" if self.failed else ""
            self._bar.update(self._task, advance=done, failed=text)
            return
        now = self._clock()
        if now - self._said >= _LINE_EVERY_S and self.done < self._total:
            self._said = now
            left_s = (self._total - self.done) * (now - self._began) / self.done
            failures = f", {self.failed} failed" if self.failed else ""
            say(f"{self._verb}: {self.done} of {self._total}{failures}, {_clock_time(left_s)} left")


@contextmanager
def counted(verb: str, total: int, on_interrupt: str) -> Iterator[Counter]:
    """Yield a `Counter` for the block.

    If Ctrl-C or an error ends the block early, print how many items were done and the text
    `on_interrupt`, then raise it again.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[red]{task.fields[failed]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            counter = Counter(verb, total, bar)
            with _said_when_stopped(counter, total, on_interrupt):
                yield counter
        return
    counter = Counter(verb, total, None)
    with _said_when_stopped(counter, total, on_interrupt):
        yield counter


@contextmanager
def _said_when_stopped(counter: Counter, total: int, on_interrupt: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        say(f"stopped after {counter.done} of {total}. {on_interrupt}")
        raise


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
