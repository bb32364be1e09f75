"""Procedural scenes depend on two integers alone, and their masks and depth are exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ois_network.training.scenes.scene import (
    HELD_OUT_SEED,
    TRAIN_SEED,
    SceneKind,
    render,
    scene_size,
)
from ois_network.training.scenes.shapes import SHAPES

SIZE = (160, 120)


def test_a_scene_is_always_the_same() -> None:
    first, again = render(TRAIN_SEED, 7, SIZE), render(TRAIN_SEED, 7, SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.depth, again.depth)
    np.testing.assert_array_equal(first.instances, again.instances)


def test_held_out_scenes_are_other_scenes() -> None:
    train, held_out = render(TRAIN_SEED, 7, SIZE), render(HELD_OUT_SEED, 7, SIZE)
    assert (train.image != held_out.image).mean() > 0.5


def test_shapes_types_and_ranges() -> None:
    width, height = scene_size(TRAIN_SEED, 3)
    scene = render(TRAIN_SEED, 3)
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert scene.depth.shape == scene.instances.shape == (height, width)
    assert scene.depth.dtype == np.float32
    assert scene.depth.min() >= 0
    assert scene.instances.max() <= len(scene.kinds)
    assert set(scene.kinds) <= set(SHAPES)


@pytest.mark.parametrize("index", range(5))
def test_every_object_lies_exactly_in_one_plane(index: int) -> None:
    scene = render(TRAIN_SEED, index, SIZE)
    for k in scene.targets():
        rows, columns = np.nonzero(scene.instances == k)
        design = np.stack((columns, rows, np.ones_like(rows)), axis=1).astype(np.float64)
        inverse_depth = scene.depth[rows, columns].astype(np.float64)
        solution = np.linalg.lstsq(design, inverse_depth, rcond=None)[0]
        np.testing.assert_allclose(design @ solution, inverse_depth, atol=1e-5)


@pytest.mark.parametrize("index", range(5))
def test_objects_are_in_front_of_the_background_they_cover(index: int) -> None:
    """Where the background of a row is flat, every object in that row must be nearer."""
    scene = render(TRAIN_SEED, index, SIZE)
    background = np.where(scene.instances == 0, scene.depth, -np.inf)
    nearest_of_row = background.max(1, keepdims=True)
    known = np.isfinite(nearest_of_row[:, 0])
    flat_rows = known & (np.ptp(np.where(scene.instances == 0, scene.depth,
                                         nearest_of_row), axis=1) < 1e-6)  # fmt: skip
    covered = (scene.instances > 0) & flat_rows[:, None]
    assert (scene.depth[covered] >= np.broadcast_to(nearest_of_row, covered.shape)[covered]).all()


def test_the_same_scene_at_another_size_has_the_same_layout() -> None:
    small, large = render(TRAIN_SEED, 11, (160, 120)), render(TRAIN_SEED, 11, (320, 240))
    agree = (small.instances == large.instances[::2, ::2]).mean()
    assert agree > 0.95
    assert np.abs(small.depth - large.depth[::2, ::2])[small.instances == 0].mean() < 0.02


def test_targets_are_the_objects_that_are_large_enough() -> None:
    scene = render(TRAIN_SEED, 5, SIZE)
    shares = {k: (scene.instances == k).mean() for k in range(1, len(scene.kinds) + 1)}
    assert scene.targets(0.02) == [k for k, share in shares.items() if share >= 0.02]
    assert scene.targets(1.0) == []


def test_scenes_contain_occlusion_holes_and_thin_shapes() -> None:
    """Among 40 scenes: thin shapes, holes, touching objects, objects at different depths."""
    kinds: set[str] = set()
    spans, touching = [], 0
    for index in range(40):
        scene = render(TRAIN_SEED, index, SIZE)
        kinds |= set(scene.kinds)
        depths = [float(np.median(scene.depth[scene.instances == k])) for k in scene.targets()]
        if len(depths) > 1:
            spans.append(max(depths) - min(depths))
        left, right = scene.instances[:, :-1], scene.instances[:, 1:]
        touching += bool(((left > 0) & (right > 0) & (left != right)).any())
    assert {"fence", "bar", "ring", "holed"} <= kinds
    assert touching > 20
    assert np.median(spans) > 0.1


def test_lookalikes_share_shape_and_surface_and_differ_in_depth() -> None:
    for index in range(4):
        scene = render(TRAIN_SEED, index, SIZE, SceneKind.LOOKALIKES)
        assert len(set(scene.kinds)) == 1
        targets = scene.targets()
        depths = [float(np.median(scene.depth[scene.instances == k])) for k in targets]
        assert len({round(depth, 4) for depth in depths}) == len(depths)
        means = [scene.image[scene.instances == k].mean(0) for k in targets]
        assert np.abs(np.subtract(means, means[0])).max() < 90  # lookalikes of lookalikes drift


def test_kinds_of_scenes_are_different_scenes() -> None:
    drawn = [render(TRAIN_SEED, 3, SIZE, kind).image for kind in SceneKind]
    assert all((one != other).mean() > 0.2 for one, other in itertools.combinations(drawn, 2))
