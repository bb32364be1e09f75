"""The mapping image <-> network <-> patch grid is exact for every image size."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.geometry import Geometry

PROPERTY = settings(deadline=None, derandomize=True)

SIDES = st.integers(1, 8192)
LONGEST = st.sampled_from([70, 252, 518, 1022])


@PROPERTY
@given(SIDES, SIDES, LONGEST)
@example(1, 8192, 1022)
@example(8191, 1, 70)
@example(1, 1, 518)
def test_network_sides_are_multiples_of_the_patch_and_the_longest_is_as_requested(w, h, longest):
    geometry = Geometry.fit(w, h, longest=longest)
    sides = np.array([geometry.network_width, geometry.network_height])
    assert (sides % 14 == 0).all()
    assert sides.max() == longest
    exact = np.array([w, h]) * longest / max(w, h)
    assert (np.abs(sides - exact) <= 7 + 1e-9)[sides > 14].all()


@PROPERTY
@given(SIDES, SIDES, LONGEST, st.floats(0, 1), st.floats(0, 1))
@example(1, 8192, 1022, 1.0, 1.0)
@example(8191, 5461, 518, 1.0, 1.0)
def test_a_point_survives_image_to_network_and_back(w, h, longest, u, v):
    geometry = Geometry.fit(w, h, longest=longest)
    point = np.array([u * (w - 1), v * (h - 1)])
    there = geometry.to_network(point)
    assert (there >= -0.5).all()
    assert (there <= np.array([geometry.network_width, geometry.network_height]) - 0.5).all()
    # network pixels are float32: an error of half a unit in the last place each way
    scale = max(w / geometry.network_width, h / geometry.network_height, 1)
    np.testing.assert_allclose(geometry.to_image(there), point, rtol=3e-7, atol=7e-5 * scale)


@PROPERTY
@given(SIDES, SIDES, LONGEST, st.floats(0, 1), st.floats(0, 1))
def test_a_point_lies_in_the_patch_that_covers_it(w, h, longest, u, v):
    geometry = Geometry.fit(w, h, longest=longest)
    point = np.array([u * (w - 1), v * (h - 1)])
    cell = geometry.to_grid(point)
    edges = geometry.to_network(point).astype(np.float64) + 0.5
    assert (cell * 14 <= edges + 1e-4).all()
    assert (edges - 1e-4 <= (cell + 1) * 14).all()


@PROPERTY
@given(st.integers(37, 8192), st.integers(37, 8192))
def test_corner_pixels_lie_in_the_corner_patches(w, h):
    """If a patch has at least one pixel. A larger pixel lies in the patch of its centre."""
    geometry = Geometry.fit(w, h, longest=518)
    assert geometry.to_grid(np.zeros(2)).tolist() == [0, 0]
    last = [geometry.grid_width - 1, geometry.grid_height - 1]
    assert geometry.to_grid(np.array([w - 1, h - 1])).tolist() == last


def test_sixteen_by_nine_keeps_its_shape_instead_of_being_padded_to_a_square():
    geometry = Geometry.fit(1920, 1080, longest=1022)
    assert (geometry.network_width, geometry.network_height) == (1022, 574)


@pytest.mark.parametrize(("w", "h"), [(0, 5), (5, 0), (-1, 5)])
def test_empty_images_are_refused(w, h):
    with pytest.raises(InvalidImage, match=f"{w}x{h}"):
        Geometry.fit(w, h, longest=518)


@pytest.mark.parametrize("longest", [0, -14, 13, 1024])
def test_network_sizes_off_the_patch_grid_are_refused(longest):
    with pytest.raises(InvalidInput, match=f"{longest} is not a positive multiple"):
        Geometry.fit(640, 480, longest=longest)


@settings(PROPERTY, max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 37]))
@example(73, 41, 37)
@example(37, 36, 37)
def test_position_matrices_are_torchs_bicubic_interpolation_with_dinov2s_offset(gh, gw, table):
    torch = pytest.importorskip("torch")
    positions = torch.randn(1, 3, table, table, generator=torch.Generator().manual_seed(gh * gw))
    if gh == gw == table:
        expected = positions  # as in DINOv2, no interpolation for the size of the table
    else:
        scale = ((gh + 0.1) / table, (gw + 0.1) / table)
        expected = torch.nn.functional.interpolate(positions, scale_factor=scale, mode="bicubic")
    assert expected.shape[-2:] == (gh, gw)
    geometry = Geometry(gw * 14, gh * 14, gw, gh)
    rows, columns = geometry.position_matrices(table)
    assert rows.shape == (gh, table)
    assert columns.shape == (gw, table)
    got = np.einsum("ri,nij,cj->nrc", rows, positions[0].numpy(), columns)
    np.testing.assert_allclose(got, expected[0].numpy(), atol=2e-4)


def test_the_offset_matters():
    """Without DINOv2's 0.1 the positions differ visibly, so it must not be dropped."""
    geometry = Geometry(73 * 14, 41 * 14, 73, 41)
    with_offset, _ = geometry.position_matrices(37)
    without, _ = geometry.position_matrices(37, offset=0.0)
    assert np.abs(with_offset - without).max() > 0.05
