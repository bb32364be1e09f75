"""Resizing on the device is Pillow's bicubic resize, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ois_runtime.torch.resize import ResizeTaps, resize

SIDES = st.integers(1, 90)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(height=SIDES, width=SIDES, to_height=SIDES, to_width=SIDES, seed=st.integers(0, 99))
@example(height=64, width=64, to_height=42, to_width=42, seed=0)
@example(height=1, width=90, to_height=14, to_width=42, seed=1)
@example(height=42, width=60, to_height=42, to_width=60, seed=2)
def test_every_pixel_is_pillows(
    height: int, width: int, to_height: int, to_width: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if seed % 2:  # the filter overshoots at edges, where results are clipped
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    want = np.array(Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.BICUBIC))
    got = resize(torch.from_numpy(pixels), to_height, to_width).numpy()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("size", "source"), [(1022, 1024), (1022, 4000), (1022, 100), (14, 9999)])
def test_sums_fit_into_32_bits(size: int, source: int) -> None:
    taps = ResizeTaps.of(size, source)
    largest = 255 * np.abs(taps.weight.astype(np.int64)).sum(1).max() + 2**21
    assert largest < 2**31
    assert taps.index.min() >= 0
    assert taps.index.max() == source - 1
    np.testing.assert_allclose(taps.weight.sum(1), 2**22, atol=taps.weight.shape[1])
