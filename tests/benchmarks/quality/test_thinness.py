"""Thinness is that of the shape, not of its size, and the paper's thin things have more of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ois_benchmarks.quality.thinness import thinness

Y, X = np.mgrid[:240, :240]


def strip(length: int, width: int) -> np.ndarray:
    mask = np.zeros((240, 240), dtype=bool)
    mask[10 : 10 + width, 10 : 10 + length] = True
    return mask


@pytest.mark.parametrize("radius", [10, 30, 90])
def test_a_disk_has_one_at_any_size(radius: int) -> None:
    assert thinness(np.hypot(X - 120, Y - 120) < radius) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(("length", "width"), [(200, 4), (200, 10), (100, 2)])
def test_a_strip_has_the_root_of_its_proportions(length: int, width: int) -> None:
    expected = 4 / 3 * math.sqrt(length / (math.pi * width))
    assert thinness(strip(length, width)) == pytest.approx(expected, rel=0.05)


def test_what_is_behind_a_fence_is_thin() -> None:
    disk = np.hypot(X - 120, Y - 120) < 90
    fence = (X % 12 < 3) | (Y % 12 < 3)
    assert thinness(disk & ~fence) > 4 * thinness(disk)
    assert thinness(disk & fence) > 4 * thinness(disk)


def test_the_border_of_the_image_is_an_outline() -> None:
    whole = np.ones((50, 50), dtype=bool)
    assert thinness(whole) == thinness(np.pad(whole, 7))
    assert math.isfinite(thinness(np.ones((1, 1), dtype=bool)))
