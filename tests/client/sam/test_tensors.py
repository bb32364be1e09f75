"""Tensors of torch become arrays for the client."""

from __future__ import annotations

import numpy as np
import pytest

from ois_client.contract.errors import InvalidInput
from ois_client.sam.frame import array_of

torch = pytest.importorskip("torch")


def test_types_that_numpy_lacks_or_labels_are_not() -> None:
    half = array_of(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert (half.dtype, half.tolist()) == (np.float32, [1.5, -2.0])
    labels = array_of(torch.tensor([True, False]))
    assert (labels.dtype, labels.tolist()) == (np.int32, [1, 0])
    with pytest.raises(InvalidInput, match=r"expected a torch\.Tensor"):
        array_of([1, 2])
