"""The compiled kernels compute the paper's equations on a GPU, in the cases of the interpreter.

The interpreter does not test the compiler, tensor cores, whether tiles are really skipped, or
products in bf16. Skipped on a machine without a GPU; there `tests/network/kernels/test_parity.py`
has the same cases and `test_cubins.py` compiles. Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings

from support.kernels.cases import (
    CASES,
    NETWORKS,
    RANDOM_CASES,
    Case,
    run,
    run_blind,
    run_dot,
    run_network,
)

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU that PyTorch can use"
)
pytest.importorskip("triton", reason="the kernels need Triton")

#: Limits of |difference| / |output|, as for the interpreter; higher in fp32, because exp2 is
#: approximate on GPUs.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1.5e-2}
#: Limits for the logits of a click: roundings differ, and cuDNN may choose other algorithms.
CLICK_LIMIT = {torch.float32: 1e-4, torch.float16: 2e-2}


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Switch TF32 off for convolutions. PyTorch allows it by default, and it has ten bits."""
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_last_convolution_is_a_dot_product(dtype: torch.dtype) -> None:
    assert run_dot(dtype, "cuda") < 1e-5
