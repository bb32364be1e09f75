"""The one thread that starts work on a GPU.

PyTorch remembers per thread which algorithms cuDNN and the fused attention use for a shape, and
what it holds for them. With a server's six threads each would choose and hold again. So every
thread hands its work to this one. It only starts work; the thread that asked waits for the result.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import PriorityQueue
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

_LAST = 2**31


@dataclass(order=True, slots=True)
class _Job:
    """priority: lower runs first; of equal ones, the older. run: None ends the thread."""

    priority: int
    number: int
    run: Callable[[], Any] | None = field(compare=False, default=None)
    future: Future[Any] = field(compare=False, default_factory=Future)


class GpuThread:
    """Runs functions one after another in its own thread, in inference mode.

    The thread ends when this object is garbage collected.
    """

    def __init__(self) -> None:
        self._jobs: PriorityQueue[_Job] = PriorityQueue()
        self._numbers = itertools.count()
        # A daemon, because a process may end without closing its engines.
        threading.Thread(target=_work, args=(self._jobs,), name="ois-gpu", daemon=True).start()
        # Not at exit: other threads may still wait for their results.
        weakref.finalize(self, self._jobs.put, _Job(_LAST, 0)).atexit = False

    def call(self, run: Callable[[], Result], priority: int) -> Result:
        """Run `run` in the thread, before everything of a higher `priority` that still waits.

        Returns its result or raises its error. Must not be called from the thread itself.
        """
        job = _Job(priority, next(self._numbers), run)
        self._jobs.put(job)
        try:
            result: Result = _result_of(job)
        finally:
            del job
        return result


def _work(jobs: PriorityQueue[_Job]) -> None:
    with torch.inference_mode():
        while _run(jobs.get()):
            pass


def _run(job: _Job) -> bool:
    """Run one job. A function of its own, so that nothing of the job stays alive while waiting."""
    if job.run is None:
        return False
    try:
        result = job.run()
    except BaseException as error:  # also an interrupt: the caller waits for an answer
        job.future.set_exception(error)
        del job  # which has the error now: see `_result_of`
    else:
        job.future.set_result(result)
    return True


def _result_of(job: _Job) -> Any:
    """Wait for the job's result. Raises its error."""
    try:
        return job.future.result()
    finally:
        # An error holds this function's variables. If they held the error, too, what failed would
        # keep its tensors until the garbage collector finds the circle.
        del job


def in_new_thread(run: Callable[[], Result]) -> Result:
    """Run `run` in a thread that has remembered nothing yet, and wait for it."""
    job = _Job(0, 0, run)
    thread = threading.Thread(target=_answer, args=([job],), name="ois-gpu-capture", daemon=True)
    thread.start()
    thread.join()
    try:
        result: Result = _result_of(job)
    finally:
        del job
    return result


def _answer(jobs: list[_Job]) -> None:
    """jobs: one. Taken out of the list, because an error also holds the variables of this frame."""
    with torch.inference_mode():
        _run(jobs.pop())
