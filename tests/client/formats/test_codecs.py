"""Brush RLE, CVAT's RLE and polygons are exact both ways and equal to those of their packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvat_sdk import masks as cvat_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from ois_client.contract.errors import InvalidInput
from ois_client.formats.brush import brush_of_mask, mask_of_brush
from ois_client.formats.cvat import box_of_mask, cvat_of_mask, mask_of_cvat
from ois_client.formats.polygons import Ring, mask_of_rings, rings_of_mask, simplify

GOLDEN = Path(__file__).parents[2] / "golden"
PROPERTY = settings(deadline=None, derandomize=True, max_examples=80)
NOISE = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements={"max_value": 1}
)
RUNS = st.builds(
    lambda h, w, a, b: ((np.arange(h * w) >= a) & (np.arange(h * w) < b)).reshape(h, w),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 90000),
    st.integers(0, 90000),
).map(lambda mask: mask.astype(np.uint8))
MASKS = st.one_of(NOISE, RUNS)


def golden(name: str) -> list[Any]:
    cases = json.loads((GOLDEN / name).read_text())["cases"]
    return [pytest.param(case, id=key) for key, case in cases.items()]


def mask_of_case(case: dict[str, Any]) -> np.ndarray:
    repeated = case.get("mask_rows", [])
    rows = case.get("mask") or [row for row, count in repeated for _ in range(count)]
    return np.array([[at == "#" for at in row] for row in rows], dtype=np.uint8)


# -- Label Studio's brush ------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("brush_rle.json"))
def test_brush_masks_are_byte_for_byte_label_studio_s(case: dict[str, Any]) -> None:
    mask = mask_of_case(case)
    assert brush_of_mask(mask) == case["rle"]
    height, width = mask.shape
    np.testing.assert_array_equal(mask_of_brush(case["rle"], width, height), mask)


@PROPERTY
@given(mask=MASKS)
def test_brush_masks_are_exact_both_ways(mask: np.ndarray) -> None:
    height, width = mask.shape
    back = mask_of_brush(brush_of_mask(mask), width, height)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, mask)


@PROPERTY
@given(mask=MASKS)
def test_brush_masks_are_those_of_label_studio_s_package(mask: np.ndarray) -> None:
    """The tests do not require the package, because its newest versions need NumPy 2."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    assert brush_of_mask(mask) == brush.mask2rle(mask * 255)
    samples = brush.decode_rle(brush_of_mask(mask))
    np.testing.assert_array_equal(samples.reshape(*mask.shape, 4)[..., 3], mask * 255)


def brush_blocks(count: int, *blocks: tuple[int, int, list[int]], sizes: str = "2,3,7,15") -> list:
    """A stream of blocks: run or not, index of the size, samples (of a run: length, value)."""
    widths = [int(size) + 1 for size in sizes.split(",")]
    bits = f"{count:032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    for is_run, size, values in blocks:
        length, samples = (values[0], values[1:]) if is_run else (len(values), values)
        bits += f"{is_run}{size:02b}{length - 1:0{widths[size]}b}"
        bits += "".join(f"{sample:08b}" for sample in samples)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def test_drawn_masks_are_read_by_their_alpha() -> None:
    """Drawn regions have separate samples, half-transparent borders and other length sizes."""
    pixel = [10, 20, 30]
    stream = brush_blocks(
        16, (0, 0, [*pixel, 0, *pixel, 1]), (1, 1, [4, 200]), (0, 3, [0, 0, 0, 0]), sizes="3,4,7,2"
    )
    assert mask_of_brush(stream, 2, 2).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a"], "list of bytes"),
        ([256], "list of bytes"),
        (None, "list of bytes"),
        (10**12, "list of bytes"),
        ([], "complete header"),
        ([0] * 6, "complete header"),
        (brush_of_mask(np.ones((2, 3), np.uint8)), "24 samples of 8 bits; expected 16"),
        (brush_blocks(16, (1, 1, [15, 255])), "ends early or overflows after 15 of 16"),
        (brush_blocks(16, (1, 2, [17, 255])), "overflows after 0"),
        (brush_blocks(16, (0, 1, [1] * 16))[:-1], "ends early"),
    ],
)
def test_damaged_brush_masks_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        mask_of_brush(values, 2, 2)


# -- CVAT's masks --------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("cvat_rle.json"))
def test_cvat_masks_are_cvat_s(case: dict[str, Any]) -> None:
    mask = mask_of_case(case)
    assert cvat_of_mask(mask) == case["points"]
    height, width = mask.shape
    np.testing.assert_array_equal(mask_of_cvat(case["points"], width, height), mask)


@PROPERTY
@given(mask=MASKS)
def test_cvat_masks_are_those_of_cvat_s_package(mask: np.ndarray) -> None:
    ours = cvat_of_mask(mask)
    assert ours == cvat_reference.encode_mask(mask == 1)
    assert all(type(value) is int for value in ours)
    height, width = mask.shape
    back = mask_of_cvat([float(value) for value in ours], width, height)
    np.testing.assert_array_equal(back, mask)
    theirs = cvat_reference.decode_mask(ours, image_width=width, image_height=height)
    np.testing.assert_array_equal(back, theirs)


def test_the_box_holds_the_object_exactly() -> None:
    mask = np.zeros((7, 9), dtype=np.uint8)
    assert box_of_mask(mask) == (0, 0, 0, 0)
    mask[2, 3] = mask[5, 8] = 1
    assert box_of_mask(mask) == (3, 2, 8, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "not a CVAT mask"),
        ([], "not a CVAT mask"),
        ([1, 0, 0, 0], "not a CVAT mask"),
        (["a", 0, 0, 0, 0], "not a CVAT mask"),
        ([[1], [0], [0], [0], [0]], "not a CVAT mask"),
        ([1.5, 0, 0, 0, 0], "not a CVAT mask"),
        ([float("nan"), 0, 0, 0, 0], "not a CVAT mask"),
        ([1e300, 0, 0, 0, 0], "not a CVAT mask"),
        ([1, 0, 0, 0, 3], r"box \[0, 0, 0, 3\]"),
        ([1, 2, 0, 1, 0], r"box \[2, 0, 1, 0\]"),
        ([1, -1, 0, 0, 0], "box"),
        ([1, 1, 0, 0, 1, 1], "add up to 2 pixels; expected 4"),
        ([5, -1, 0, 0, 1, 1], "negative"),
    ],
)
def test_damaged_cvat_masks_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        mask_of_cvat(values, 4, 3)


# -- polygons ------------------------------------------------------------------------------


@PROPERTY
@given(mask=MASKS)
def test_outlines_are_exact(mask: np.ndarray) -> None:
    height, width = mask.shape
    np.testing.assert_array_equal(mask_of_rings(rings_of_mask(mask), width, height), mask)


@PROPERTY
@given(mask=NOISE)
def test_outlines_are_what_pycocotools_fills(mask: np.ndarray) -> None:
    covered = np.zeros(mask.shape, dtype=np.int64)
    for ring in rings_of_mask(mask):
        [one] = coco.frPyObjects([ring.points.ravel().tolist()], *mask.shape)
        covered += np.int64(-1 if ring.hole else 1) * coco.decode(one)
    np.testing.assert_array_equal(covered, mask)


def test_the_outline_of_a_frame_by_hand() -> None:
    mask = np.pad(np.pad(np.zeros((1, 2), np.uint8), 1, constant_values=1), 1)
    outer, inner = rings_of_mask(mask)
    assert (outer.hole, inner.hole) == (False, True)
    assert outer.points.tolist() == [[1, 1], [5, 1], [5, 4], [1, 4]]
    assert inner.points.tolist() == [[2, 2], [4, 2], [4, 3], [2, 3]]


@pytest.mark.parametrize("turn", [0, 1])
def test_pixels_that_touch_at_a_corner_are_two_objects(turn: int) -> None:
    diagonal = np.rot90(np.eye(2, dtype=np.uint8), turn)
    rings = rings_of_mask(diagonal)
    assert [(len(ring.points), ring.hole) for ring in rings] == [(4, False), (4, False)]
    # Background pixels are connected at corners, so there is one hole, not two.
    rings = rings_of_mask(np.pad(1 - diagonal, 1, constant_values=1))
    assert [(len(ring.points), ring.hole) for ring in rings] == [(4, False), (8, True)]


def test_simple_outlines_stay_within_the_tolerance() -> None:
    y, x = np.mgrid[:200, :300]
    mask = (np.hypot(x - 140, y - 90) < 70).astype(np.uint8)
    [exact], [simple] = rings_of_mask(mask), rings_of_mask(mask, 1.0)
    assert len(simple.points) < len(exact.points) / 8
    changed = mask_of_rings([simple], 300, 200) != mask
    distance = np.abs(np.hypot(x - 140, y - 90) - 70)
    assert changed.any()
    assert distance[changed].max() < 2.0
    [speck] = rings_of_mask(np.ones((1, 1), dtype=bool), 5.0)
    assert speck.points.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]


def test_a_line_is_simplified_to_its_ends() -> None:
    points = np.array([[0.0, 0], [1, 0], [2, 0.5], [3, 0], [4, 0], [4, 4], [0, 4]])
    assert simplify(points, 0.6).tolist() == [[0, 0], [4, 0], [4, 4], [0, 4]]
    assert simplify(points, 0.4).tolist() == [[0, 0], [2, 0.5], [4, 0], [4, 4], [0, 4]]


def test_outlines_beyond_the_image_are_cut_off() -> None:
    ring = Ring(np.array([[-5.0, -5], [1.2, -5], [1.2, 9], [-5, 9]]), False)
    assert mask_of_rings([ring], 3, 2).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert mask_of_rings([], 3, 2).sum() == 0


@pytest.mark.parametrize("points", [np.zeros((3, 3)), np.zeros(4), np.full((3, 2), np.nan)])
def test_points_that_are_not_an_outline_are_refused(points: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="expected \\(K, 2\\) finite numbers"):
        mask_of_rings([Ring(points, False)], 4, 4)


def test_sizes_and_tolerances_are_checked() -> None:
    for size in ((0, 4), (4, -1), (2**20, 2**20)):
        with pytest.raises(InvalidInput, match="pixels"):
            mask_of_rings([], *size)
    for tolerance in (-1.0, float("nan")):
        with pytest.raises(InvalidInput, match="tolerance"):
            rings_of_mask(np.ones((2, 2), np.uint8), tolerance)
