"""The engines of `tiny_engines` with an encoder that takes its time, all of it in the engine.

The same numbers come out: a long product of zeros is added to the depth.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_engines
from ois_export.repository import write_repository
from ois_runtime.manifest import Manifest

SIDE = 1024
_HEAD = "    grey = ReduceMean<keepdims = 0>(pixels, axis_2)\n"


def encoder(products: int) -> str:
    """The encoder with `products` matrix products of 2 GFLOP each."""
    lines = [
        "    brightest = ReduceMax<keepdims = 0>(pixels)",
        "    nothing = Constant<value_float = 0.0>()",
        "    zero = Mul(brightest, nothing)",  # known to be zero by nobody who optimises
        f"    square = Constant<value_ints = [{SIDE}, {SIDE}]>()",
        "    product_0 = Expand(zero, square)",
        *(f"    product_{n + 1} = MatMul(product_{n}, product_{n})" for n in range(products)),
        f"    slow = ReduceMax<keepdims = 0>(product_{products})",
        "    grey_quick = ReduceMean<keepdims = 0>(pixels, axis_2)",
        "    grey = Add(grey_quick, slow)",
    ]
    assert _HEAD in tiny_engines.ENCODER
    return tiny_engines.ENCODER.replace(_HEAD, "\n".join(lines) + "\n")


def write_slow_engines(folder: Path, products: int) -> Path:
    """An engine folder with its model repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_engines, "ENCODER", encoder(products))
        tiny_engines.write_engines(folder)
    write_repository(folder, Manifest.load(folder))
    return folder
