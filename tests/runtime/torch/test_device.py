"""Engines that compute in parallel share PyTorch's process-wide switches."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch

from ois_runtime.torch.device import exact_products, measured_algorithms

CUDNN: Any = torch.backends.cudnn
MATMUL: Any = torch.backends.cuda.matmul
#: cuDNN's benchmark mode, then the precision of fp32 convolutions and of fp32 products.
Switches = tuple[bool, str, str]
FOUND: Switches = (True, "tf32", "tf32")
EXACT: Switches = (False, "ieee", "ieee")
MEASURING: Switches = (True, "ieee", "ieee")


def switches() -> Switches:
    return CUDNN.benchmark, CUDNN.conv.fp32_precision, MATMUL.fp32_precision


def turn(to: Switches) -> None:
    CUDNN.benchmark, CUDNN.conv.fp32_precision, MATMUL.fp32_precision = to


@pytest.fixture(autouse=True)
def found() -> Iterator[None]:
    """Sets the switches to values that an engine must not use."""
    before = switches()
    turn(FOUND)
    yield
    turn(before)


def test_products_are_exact_until_the_last_engine_has_finished() -> None:
    first, second = exact_products(), exact_products()
    first.__enter__()
    assert switches() == EXACT
    second.__enter__()
    first.__exit__(None, None, None)
    assert switches() == EXACT
    second.__exit__(None, None, None)
    assert switches() == FOUND


def test_an_engine_that_ends_does_not_switch_measuring_off_for_another() -> None:
    capturing, measuring, other = exact_products(), measured_algorithms(), exact_products()
    capturing.__enter__()
    measuring.__enter__()
    other.__enter__()
    assert switches() == MEASURING
    other.__exit__(None, None, None)
    assert switches() == MEASURING
    measuring.__exit__(None, None, None)
    assert switches() == EXACT
    capturing.__exit__(None, None, None)
    assert switches() == FOUND


def test_two_captures_end_in_any_order() -> None:
    first, second = exact_products(), exact_products()
    first_measures, second_measures = measured_algorithms(), measured_algorithms()
    for entered in (first, first_measures, second, second_measures):
        entered.__enter__()
    for left, after in (
        (first_measures, MEASURING),
        (first, MEASURING),
        (second_measures, EXACT),
        (second, FOUND),
    ):
        left.__exit__(None, None, None)
        assert switches() == after


def test_a_call_that_fails_restores_the_switches() -> None:
    with pytest.raises(ValueError, match="no image"), exact_products(), measured_algorithms():
        raise ValueError("no image")
    assert switches() == FOUND


def test_threads_that_come_and_go_leave_the_process_as_it_was() -> None:
    threads = 4
    together = Barrier(threads)

    def clicks(number: int) -> set[tuple[str, str]]:
        pauses = random.Random(number)
        seen = set()
        together.wait()
        for _ in range(50):
            with exact_products():
                time.sleep(pauses.random() / 2000)
                seen.add(switches()[1:])
        return seen

    with ThreadPoolExecutor(threads) as pool:
        seen = set().union(*pool.map(clicks, range(threads)))
    assert seen == {("ieee", "ieee")}
    assert switches() == FOUND
