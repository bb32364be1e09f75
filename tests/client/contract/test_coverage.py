"""Coverage is 0 only in patches without foreground and 255 only in patches without background."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry

PROPERTY = settings(deadline=None, derandomize=True)


def cells(size: int, count: int) -> list[np.ndarray]:
    """Indices of the pixels whose centre lies in each of `count` equal cells of `size`.

    A centre exactly on an edge counts for the cell before it.
    """
    # integers: the centre (2 i + 1) / (2 size), the edge k / count
    cell = -(-(2 * np.arange(size) + 1) * count // (2 * size)) - 1
    return [np.flatnonzero(cell == k) for k in range(count)]


@settings(PROPERTY, max_examples=60)
@given(
    st.integers(40, 200),
    st.integers(40, 200),
    st.integers(0, 2**31),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([1, 4]),
)
def test_0_and_255_are_exact(width, height, seed, kind, scale):
    """For images with at least one pixel per cell, however few pixels differ."""
    patch = 14 * scale
    longest = 140 // patch * patch
    geometry = Geometry.fit(width, height, longest=longest, patch=patch, coverage_scale=scale)
    rng = np.random.default_rng(seed)
    if kind == 2:
        mask = rng.integers(0, 2, (height, width)).astype(np.uint8)
    else:  # all background (or foreground) except for a few pixels
        mask = np.full((height, width), kind, dtype=np.uint8)
        mask[rng.integers(0, height, 4), rng.integers(0, width, 4)] ^= 1
    coverage = coverage_of_mask(mask, geometry)
    assert coverage.dtype == np.uint8
    assert coverage.shape == (scale * geometry.grid_height, scale * geometry.grid_width)
    for row, ys in enumerate(cells(height, coverage.shape[0])):
        for column, xs in enumerate(cells(width, coverage.shape[1])):
            cell = mask[np.ix_(ys, xs)]
            assert (coverage[row, column] == 0) == (not cell.any())
            assert (coverage[row, column] == 255) == bool(cell.all())


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 5), (4000, 3000)])
def test_full_and_empty_masks_of_any_size(size):
    width, height = size
    geometry = Geometry.fit(width, height, longest=1022)
    assert (coverage_of_mask(np.zeros((height, width)), geometry) == 0).all()
    assert (coverage_of_mask(np.ones((height, width), dtype=bool), geometry) == 255).all()


@pytest.mark.parametrize("background", [0, 1])
def test_one_pixel_of_a_large_image_changes_the_coverage(background):
    geometry = Geometry.fit(4000, 3000, longest=518)
    mask = np.full((3000, 4000), background, dtype=np.uint8)
    mask[1605, 2160] = 1 - background
    coverage = coverage_of_mask(mask, geometry)
    column, row = geometry.to_grid(np.array([2160, 1605]))
    assert coverage[row, column] == (254 if background else 1)
    assert (coverage == 255 * background).sum() == coverage.size - 1


@pytest.mark.parametrize("width", [40, 41, 45, 75, 123, 140])
def test_every_pixel_is_in_exactly_one_patch(width):
    """41 pixels and 10 patches: the centre of pixel 20 lies on an edge."""
    geometry = Geometry.fit(width, 40, longest=140)
    for column in range(width):
        mask = np.zeros((40, width), dtype=np.uint8)
        mask[:, column] = 1
        coverage = coverage_of_mask(mask, geometry)
        assert (coverage > 0).any(axis=0).sum() == 1, column
        assert (coverage_of_mask(1 - mask, geometry) < 255).any(axis=0).sum() == 1, column


def test_one_pixel_of_a_very_large_patch_is_not_lost():
    geometry = Geometry.fit(32768, 1024, longest=140)
    mask = np.ones((1024, 32768), dtype=np.uint8)
    mask[500, 20_000] = 0
    coverage = coverage_of_mask(mask, geometry)
    assert sorted(np.unique(coverage)) == [254, 255]
    assert (coverage == 254).sum() == 1


def test_a_mask_of_another_image_is_refused():
    geometry = Geometry.fit(64, 48, longest=140)
    with pytest.raises(InvalidInput, match=r"got a mask of shape \(64, 48\).*\(48, 64\)"):
        coverage_of_mask(np.zeros((64, 48)), geometry)
