"""The kernels compute the paper's equations: every mask, every share, every precision.

They run in Triton's interpreter, on the CPU, in a process of their own: it is chosen in the
environment before Triton is imported, and other tests import Triton without it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kernel_cases
from kernel_cases import Case
from ois_network.kernels.choice import Blocks

pytest.importorskip("triton", reason="the kernels need Triton, which is for Linux")

#: Of |difference| / |output|. The inputs are rounded before both; what is left is the rounding
#: of weights and outputs. The interpreter cuts bf16 off where GPUs round: twice the error.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1.5e-2}


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


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("keys", [1, 7, 16, 33])
def test_any_number_of_keys(
    interpreter: ProcessPoolExecutor, keys: int, dtype: torch.dtype
) -> None:
    case = Case(objects=1, heads=1, keys=keys, dtype=dtype, touched=6)
    assert error(interpreter, case) < TOLERANCE[dtype]


def test_as_many_keys_as_the_paper_has(interpreter: ProcessPoolExecutor) -> None:
    case = Case(objects=1, heads=1, keys=5329, dim=32, touched=12, blocks=Blocks(64, 128, 3))
    case = replace(case, dtype=torch.float16)
    assert error(interpreter, case) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("sigma", [None, 0.0, 8.0, 64.0, (0.0, 64.0)])
@pytest.mark.parametrize("covered", [None, 0.3])
def test_every_strength_of_order_with_and_without_masks(
    interpreter: ProcessPoolExecutor,
    sigma: float | tuple[float, ...] | None,
    covered: float | None,
) -> None:
    case = Case(objects=1, keys=40, sigma=sigma, covered=covered)
    assert error(interpreter, case) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("covered", [0.0, 1.0])
def test_a_mask_of_nothing_and_a_mask_of_everything(
    interpreter: ProcessPoolExecutor, covered: float
) -> None:
    # One sign would be blocked everywhere: its slots see everything instead.
    case = Case(objects=1, heads=1, covered=covered, clicks=(24, 24), touched=5)
    assert error(interpreter, case) < TOLERANCE[torch.float32]


def test_a_slot_that_sees_nothing_gives_zero(interpreter: ProcessPoolExecutor) -> None:
    largest, others_finite = interpreter.submit(kernel_cases.run_blind).result(timeout=120)
    assert largest == 0.0
    assert others_finite


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("touched", [0, 40])
def test_one_image_for_all_objects_or_one_each(
    interpreter: ProcessPoolExecutor, objects: int, shared: bool, touched: int
) -> None:
    case = Case(objects=objects, heads=1, keys=50, shared=shared, touched=touched)
    assert error(interpreter, case) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("queries", "splits", "skip"),
    [(16, 1, True), (16, 3, False), (32, 7, True), (64, 1, False), (64, 7, True)],
)
def test_every_way_to_cut_the_work(
    interpreter: ProcessPoolExecutor, queries: int, splits: int, skip: bool
) -> None:
    # 24 positives on few patches: whole tiles that no slot of a tile of 16 sees.
    blocks = Blocks(queries, 32, splits, skip)
    case = Case(objects=1, heads=1, clicks=(24, 24), covered=0.02, keys=130, blocks=blocks)
    assert error(interpreter, case) < TOLERANCE[torch.float32]


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
    case=st.builds(
        Case,
        objects=st.integers(1, 2),
        keys=st.integers(1, 70),
        heads=st.sampled_from([1, 2]),
        dim=st.sampled_from([16, 32]),
        sigma=st.none() | st.floats(0, 64, width=32),
        covered=st.none() | st.sampled_from([0.0, 0.1, 0.9, 1.0]),
        clicks=st.tuples(st.integers(0, 24), st.integers(0, 24)),
        touched=st.sampled_from([0, 3, 17]),
        shared=st.booleans(),
        seed=st.integers(0, 1000),
    ),
    blocks=st.builds(
        Blocks,
        queries=st.sampled_from([16, 64]),
        keys=st.sampled_from([32, 64]),
        splits=st.integers(1, 4),
        skip=st.booleans(),
    ),
)
def test_any_combination(interpreter: ProcessPoolExecutor, case: Case, blocks: Blocks) -> None:
    assert error(interpreter, replace(case, blocks=blocks)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("order", "masks", "order_first", "dtype", "limit"),
    [
        (True, True, True, torch.float32, 1e-5),
        (False, True, False, torch.float32, 1e-5),
        (True, False, False, torch.float32, 1e-5),
        (True, True, True, torch.float16, 5e-3),  # two roundings of the same click
    ],
)
def test_a_click_through_the_kernels_is_a_click_through_pytorch(
    interpreter: ProcessPoolExecutor,
    order: bool,
    masks: bool,
    order_first: bool,
    dtype: torch.dtype,
    limit: float,
) -> None:
    run = interpreter.submit(kernel_cases.run_network, order, masks, order_first, dtype)
    assert run.result(timeout=120) < limit


def test_the_gpu_benchmark_compares_two_ways_to_the_same_result(
    interpreter: ProcessPoolExecutor,
) -> None:
    by_torch, by_kernels = interpreter.submit(kernel_cases.run_benchmark).result(timeout=120)
    assert max(by_torch + by_kernels) < 2e-3
