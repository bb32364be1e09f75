"""Runs a generator that yields each I/O operation instead of performing it.

The driver performs the operation and sends its result, or throws its error, into the generator,
until the generator returns. So threads (`run`) and event loops (`run_async`) share its logic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

StepT = TypeVar("StepT")
ValueT = TypeVar("ValueT")


def run(steps: Generator[StepT, Any, ValueT], perform: Callable[[StepT], object]) -> ValueT:
    """Perform every step of `steps` and return what it returns.

    An `Exception` from `perform` is thrown into `steps`, which may handle it. Anything else, such
    as `KeyboardInterrupt`, ends the run: `steps` is closed.
    """
    try:
        step = next(steps)
        while True:
            try:
                result = perform(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as stop:
        value: ValueT = stop.value
        return value
    finally:
        steps.close()


async def run_async(
    steps: Generator[StepT, Any, ValueT], perform: Callable[[StepT], Awaitable[object]]
) -> ValueT:
    """`run` on an event loop. When the task is cancelled, `steps` is closed."""
    try:
        step = next(steps)
        while True:
            try:
                result = await perform(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as stop:
        value: ValueT = stop.value
        return value
    finally:
        steps.close()
