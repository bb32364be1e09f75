"""Images are resized to network size, logits become masks, and order maps follow Eq. 1 and 2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, InvalidClick, InvalidImage, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import load_image
from ois_runtime.engines.image_state import ImageState, depth_at, order_depth, order_maps
from ois_runtime.engines.pixels import postprocess, preprocess


def geometry_of(width: int, height: int) -> Geometry:
    return Geometry.fit(width, height, longest=56, patch=14)


# -- preprocess ----------------------------------------------------------------------------


def test_a_picture_and_its_pixels_give_the_same_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (31, 97, 3), dtype=np.uint8)
    image, geometry = preprocess(load_image(pixels), geometry_of)
    again, _ = preprocess(pixels, geometry_of)
    expected = Image.fromarray(pixels).resize((56, 14), Image.Resampling.BICUBIC)
    assert geometry == geometry_of(97, 31)
    np.testing.assert_array_equal(image, np.asarray(expected))
    np.testing.assert_array_equal(image, again)


def test_an_image_of_the_network_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (42, 56, 3), dtype=np.uint8)
    np.testing.assert_array_equal(preprocess(pixels, geometry_of)[0], pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2)])
def test_extreme_shapes_fit_the_patch_grid(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.full((height, width, 3), 77, dtype=np.uint8)
    image, geometry = preprocess(pixels, geometry_of)
    assert image.shape == (geometry.network_height, geometry.network_width, 3)
    assert (image == 77).all()


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_other_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(InvalidImage, match="expected"):
        preprocess(pixels, geometry_of)


# -- postprocess ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(301, 200), (56, 42), (40, 31), (9, 120), (1, 1), (2000, 900)])
def test_masks_are_torchs_half_pixel_bilinear_up_and_down(size: tuple[int, int]) -> None:
    geometry = geometry_of(*size)
    shape = (3, geometry.network_height, geometry.network_width)
    logits = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits).double()[None],
        (geometry.height, geometry.width),
        mode="bilinear",
        align_corners=False,
    )[0].numpy()
    masks = postprocess(logits, geometry)
    assert masks.shape == (3, geometry.height, geometry.width)
    assert masks.dtype == np.uint8
    clear = np.abs(expected) > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(masks[clear], expected[clear] > 0)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    boxes=st.lists(st.tuples(*[st.integers(0, 55)] * 4), max_size=3),
)
def test_only_pixels_near_a_positive_logit_are_the_objects(
    width: int, height: int, boxes: list[tuple[int, int, int, int]]
) -> None:
    geometry = geometry_of(width, height)
    logits = np.full((1, geometry.network_height, geometry.network_width), -1e-3, np.float32)
    for top, left, rows, columns in boxes:
        logits[0, top : top + rows, left : left + columns] = 1e4
    mask = postprocess(logits, geometry)[0]
    xs, ys = np.meshgrid(np.arange(width), np.arange(height))
    network = geometry.to_network(np.stack([xs, ys], axis=-1))
    x = np.clip(network[..., 0], 0, geometry.network_width - 1)
    y = np.clip(network[..., 1], 0, geometry.network_height - 1)
    nearest = logits[0, np.rint(y).astype(int), np.rint(x).astype(int)] > 0
    # Between 1e4 and -1e-3, all but a ten-millionth of the distance is positive.
    assert (mask[nearest] == 1).all()
    if not (logits > 0).any():
        assert not mask.any()
    if (logits > 0).all():
        assert mask.all()


def test_a_logit_of_zero_is_background() -> None:
    geometry = geometry_of(100, 100)
    assert not postprocess(np.zeros((2, 56, 56), np.float32), geometry).any()
    assert postprocess(np.zeros((0, 56, 56), np.float32), geometry).shape == (0, 100, 100)


def test_logits_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"expected \(N, 56, 56\)"):
        postprocess(np.zeros((1, 42, 56), np.float32), geometry_of(100, 100))


# -- depth and order maps ------------------------------------------------------------------


def state_of(depth: np.ndarray, **changes: np.ndarray) -> ImageState:
    arrays = {
        "depth": depth[None].astype(np.float32),
        "depth_min": np.array([depth.min()], np.float32),
        "depth_max": np.array([depth.max()], np.float32),
    }
    return ImageState({**arrays, **changes}, geometry_of(56, 56))


RAMP = np.tile(np.linspace(5, 25, 56, dtype=np.float32), (56, 1))  # nearer to the right


def test_order_depth_is_zero_at_the_nearest_and_one_at_the_farthest() -> None:
    depth = order_depth(state_of(RAMP))
    np.testing.assert_allclose(depth, np.tile(np.linspace(1, 0, 56), (56, 1)), atol=1e-6)
    assert depth.dtype == np.float32


def test_a_flat_scene_has_one_depth() -> None:
    np.testing.assert_array_equal(order_depth(state_of(np.full((56, 56), 3.0))), 0)


def test_order_maps_are_the_papers_equations() -> None:
    depth = order_depth(state_of(RAMP))
    geometry = geometry_of(112, 112)  # clicks are in image pixels, twice the network's
    clicks = [Click(0.5, 9), Click(20.5, 9, positive=False), Click(40.5, 50), Click(60.5, 0, False)]
    maps = order_maps(depth, clicks, geometry)
    at = {x: depth[0, x] for x in (0, 10, 20, 30)}
    assert maps.positive is not None
    np.testing.assert_allclose(maps.positive, abs(depth - (at[0] + at[20]) / 2), atol=1e-6)
    np.testing.assert_allclose(maps.negative[0], abs(depth - at[10]), atol=1e-6)
    np.testing.assert_allclose(maps.negative[1], abs(depth - at[30]), atol=1e-6)
    assert maps.negative.shape == (2, 56, 56)


def test_order_maps_without_a_sign_are_absent() -> None:
    depth = order_depth(state_of(RAMP))
    assert order_maps(depth, [Click(1, 1, positive=False)], geometry_of(56, 56)).positive is None
    assert order_maps(depth, [Click(1, 1)], geometry_of(56, 56)).negative.shape == (0, 56, 56)
    assert order_maps(depth, [], geometry_of(56, 56)).positive is None


def test_depth_between_pixels_is_bilinear_and_clamped_at_the_border() -> None:
    depth = np.array([[0.0, 1.0], [2.0, 5.0]], np.float32)
    points = np.array([[0.5, 0.5], [0.25, 0], [1, 0.5], [-0.5, -0.5], [1.5, 1.5]])
    np.testing.assert_allclose(depth_at(depth, points), [2.0, 0.25, 3.0, 0.0, 5.0])


def test_order_maps_check_clicks_and_depth() -> None:
    with pytest.raises(InvalidClick, match="outside"):
        order_maps(RAMP, [Click(56, 0)], geometry_of(56, 56))
    with pytest.raises(InvalidInput, match="network size"):
        order_maps(RAMP, [Click(0, 0)], geometry_of(56, 14))


def test_a_state_without_usable_depth_is_refused() -> None:
    with pytest.raises(EngineError, match="has shape"):
        state_of(RAMP[:42])
    with pytest.raises(EngineError, match="overflow"):
        state_of(RAMP, depth_max=np.array([np.inf], np.float32))
    with pytest.raises(EngineError, match="no output 'depth'"):
        ImageState({}, geometry_of(56, 56))
