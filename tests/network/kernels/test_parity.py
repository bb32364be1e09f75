"""The kernels compute the paper's equations with every kind of mask, share and precision.

They run in Triton's interpreter on the CPU. It needs its own process, because it is chosen in the
environment before Triton is imported, and other tests import Triton without it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings

from support.kernels import cases as kernel_cases
from support.kernels.cases import CASES, NETWORKS, RANDOM_CASES, Case

pytest.importorskip("triton", reason="the kernels need Triton, which is for Linux")

#: Limits of |difference| / |output|. Both get the same rounded inputs, so only weights and outputs
#: are rounded differently. The interpreter truncates bf16 where GPUs round: twice the error.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1.5e-2}
#: Limits for the logits of a whole click. In half precision both results are rounded.
CLICK_LIMIT = {torch.float32: 1e-5, torch.float16: 5e-3}


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with (
        patch.dict(os.environ, {"TRITON_INTERPRET": "1"}),
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        yield pool


def error(interpreter: ProcessPoolExecutor, case: Case) -> float:
    return interpreter.submit(kernel_cases.run, case).result(timeout=120)


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_the_equations(interpreter: ProcessPoolExecutor, name: str) -> None:
    case = CASES[name]
    assert error(interpreter, case) < TOLERANCE[case.dtype]


def test_a_slot_without_visible_keys_gives_zero(interpreter: ProcessPoolExecutor) -> None:
    largest, others_finite = interpreter.submit(kernel_cases.run_blind).result(timeout=120)
    assert largest == 0.0
    assert others_finite


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(case=RANDOM_CASES)
def test_any_combination_is_the_equations(interpreter: ProcessPoolExecutor, case: Case) -> None:
    assert error(interpreter, case) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(("order", "masks", "order_first", "dtype"), NETWORKS)
def test_a_click_through_the_kernels_is_a_click_through_pytorch(
    interpreter: ProcessPoolExecutor,
    order: bool,
    masks: bool,
    order_first: bool,
    dtype: torch.dtype,
) -> None:
    run = interpreter.submit(kernel_cases.run_network, order, masks, order_first, dtype)
    assert run.result(timeout=120) < CLICK_LIMIT[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_last_convolution_is_a_dot_product(
    interpreter: ProcessPoolExecutor, dtype: torch.dtype
) -> None:
    """It reads what it is given, and computes in fp32."""
    assert interpreter.submit(kernel_cases.run_dot, dtype).result(timeout=120) < 1e-6


def test_both_ways_of_the_gpu_benchmark_give_the_same_result(
    interpreter: ProcessPoolExecutor,
) -> None:
    by_torch, by_kernels = interpreter.submit(kernel_cases.run_benchmark).result(timeout=120)
    assert max(by_torch + by_kernels) < 2e-3
