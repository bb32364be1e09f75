"""The engines of `tiny_engines` with a slow encoder.

The encoder multiplies large matrices of zeros and adds the result to the depth, so its outputs are
those of `tiny_engines`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from ois_client import Client
from ois_export.repository import write_repository
from ois_runtime.engines.manifest import Manifest
from support import tiny_engines

SIDE = 1024
_HEAD = "    grey = ReduceMean<keepdims = 0>(pixels, axis_2)\n"


def encoder(products: int) -> str:
    """The encoder with `products` matrix products of 2 GFLOP each."""
    lines = [
        "    brightest = ReduceMax<keepdims = 0>(pixels)",
        "    nothing = Constant<value_float = 0.0>()",
        "    zero = Mul(brightest, nothing)",  # which no optimiser can fold
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


def write_engines_that_take(seconds: float, folder: Path) -> Path:
    """Slow engines whose encode takes about `seconds` on an idle machine."""
    trial = 16
    with Client(f"local:{write_slow_engines(folder / 'trial', trial)}") as client:
        took = min(_encode_s(client, shade) for shade in range(4))
    return write_slow_engines(folder / "engines", max(trial, round(trial * seconds / took)))


def _encode_s(client: Client, shade: int) -> float:
    started = time.perf_counter()
    client.open(np.full((56, 56, 3), shade, np.uint8))
    return time.perf_counter() - started
