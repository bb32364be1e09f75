"""The kernels as a GPU runs them compute the paper's equations: the interpreter's cases, compiled.

What the interpreter cannot show: the compiler, tensor cores, skipped tiles that are really
skipped, and products of bf16. Skipped on a machine without a GPU, where `test_kernels_parity.py`
has the same cases and `test_kernels_cubins.py` compiles. Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings

from support.kernels.cases import CASES, NETWORKS, RANDOM_CASES, Case, run, run_blind, run_network

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU that PyTorch can use"
)
pytest.importorskip("triton", reason="the kernels need Triton")

#: Of |difference| / |output|, as of the interpreter, but in fp32: GPUs' exp2 is approximate.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1.5e-2}
#: Of a whole click's logits: both ways round on their own, and cuDNN may choose other algorithms.
CLICK_LIMIT = {torch.float32: 1e-4, torch.float16: 2e-2}


@pytest.fixture
def exact_products() -> Iterator[None]:
    """No TF32 in convolutions, which PyTorch allows by default: ten bits would be all there is."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_the_equations(name: str) -> None:
    case = CASES[name]
    assert run(case, "cuda") < TOLERANCE[case.dtype]


def test_a_slot_that_sees_nothing_gives_zero() -> None:
    largest, others_finite = run_blind("cuda")
    assert largest == 0.0
    assert others_finite


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(case=RANDOM_CASES)
def test_any_combination(case: Case) -> None:
    assert run(case, "cuda") < TOLERANCE[torch.float32]


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize(("order", "masks", "order_first", "dtype"), NETWORKS)
def test_a_click_through_the_kernels_is_a_click_through_pytorch(
    order: bool, masks: bool, order_first: bool, dtype: torch.dtype
) -> None:
    assert run_network(order, masks, order_first, dtype, "cuda") < CLICK_LIMIT[dtype]
