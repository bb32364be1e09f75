"""Augmentation changes image and mask together and never loses the object."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_network.training.config import AugmentConfig
from ois_network.training.data.augment import augment, fit_to, squash_to


def marked(height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """An image that is white exactly where its mask is."""
    mask = np.zeros((height, width), dtype=bool)
    mask[20:45, 10:40] = True
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2), mask


GEOMETRY_ONLY = AugmentConfig(brightness_contrast_share=0.0, rgb_shift_share=0.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_image_and_mask_move_together(seed: int) -> None:
    image, mask = augment(*marked(), np.random.default_rng(seed), GEOMETRY_ONLY)
    assert image.shape[:2] == mask.shape
    assert mask.any()
    disagree = (image[..., 0] > 127) != mask
    assert disagree.sum() <= 2 * 4 * np.sqrt(mask.sum())  # one pixel along the outline


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_colours_change_within_the_limits(seed: int) -> None:
    flat = np.full((10, 10, 3), 120, dtype=np.uint8)
    still = AugmentConfig(scale=(1.0, 1.0), flip=False, rotate90=False, shift_rotate_share=0.0)
    mask = np.ones((10, 10), dtype=bool)
    image, same = augment(flat, mask, np.random.default_rng(seed), still)
    np.testing.assert_array_equal(same, mask)
    assert image.min() >= np.floor(120 * 0.85 - 0.25 * 255 - 10)
    assert image.max() <= np.ceil(120 * 1.40 + 0.25 * 255 + 10)


def test_switched_off_it_changes_nothing() -> None:
    image, mask = marked()
    same_image, same_mask = augment(image, mask, np.random.default_rng(0), AugmentConfig(on=False))
    assert same_image is image
    assert same_mask is mask


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), wide=st.integers(1, 6), high=st.integers(1, 6))
def test_fit_to_cuts_out_a_part_with_some_of_the_object(seed: int, wide: int, high: int) -> None:
    shape = (14 * wide, 14 * high)
    image, mask = fit_to(*marked(), shape, np.random.default_rng(seed))
    assert image.shape == (shape[1], shape[0], 3)
    assert mask.shape == (shape[1], shape[0])
    assert mask.any()


def test_fit_to_the_same_aspect_keeps_the_whole_picture() -> None:
    image, mask = fit_to(*marked(60, 80), (80, 60), np.random.default_rng(0))
    expected_image, expected_mask = marked(60, 80)
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(mask, expected_mask)


def test_squashing_keeps_all_of_the_image() -> None:
    image, mask = marked(60, 80)
    small, moved = squash_to(image, mask, (40, 60))
    assert small.shape == (60, 40, 3)
    assert moved.shape == (60, 40)
    assert moved.mean() == pytest.approx(mask.mean(), rel=0.05)
    assert ((small[..., 0] > 127) != moved).sum() <= 40
