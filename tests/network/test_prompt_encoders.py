"""Prompt encoders: disks and tokens represent the clicks, and empty slots have no effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_client.contract.clicks import SLOTS, SLOTS_PER_SIGN, Click, fill_slots
from ois_client.contract.geometry import Geometry
from ois_network.prompt_encoders import DensePrompts, FourierPosition
from ois_network.split import add_at
from support.network_scenes import SMALL, random_network, random_prompts

ROWS, COLUMNS = 5, 7


def dense(radius: float = 5.0) -> DensePrompts:
    torch.manual_seed(0)
    return DensePrompts(SMALL.replace(disk_radius=radius)).requires_grad_(False)


def test_disks_hold_the_pixels_within_the_radius() -> None:
    prompts = random_prompts(ROWS, COLUMNS, [(2, 1)], previous=[False])
    maps = dense().disk_maps(prompts.points, prompts.labels, ROWS * 14, COLUMNS * 14)
    y, x = np.mgrid[0 : ROWS * 14, 0 : COLUMNS * 14]
    for sign, slots in ((0, (0, 1)), (1, (SLOTS_PER_SIGN,))):
        expected = np.zeros((ROWS * 14, COLUMNS * 14), bool)
        for slot in slots:
            cx, cy = prompts.points[0, slot].tolist()
            expected |= (x - cx) ** 2 + (y - cy) ** 2 <= 25
        assert expected.any()
        assert np.array_equal(maps[0, sign].numpy() > 0, expected)


@settings(deadline=None, max_examples=60)
@given(
    clicks=st.lists(
        st.tuples(
            # Half pixels and patch borders, where rounding could lose a row of pixels.
            st.integers(0, 2 * (COLUMNS * 14 - 1)).map(lambda v: v / 2)
            | st.floats(0, COLUMNS * 14 - 1, width=32),
            st.integers(0, 2 * (ROWS * 14 - 1)).map(lambda v: v / 2)
            | st.floats(0, ROWS * 14 - 1, width=32),
            st.booleans(),
        ),
        max_size=SLOTS_PER_SIGN,
    ),
    radius=st.sampled_from([5.0, 0.4, 6.9, 2.5]),
)
def test_local_disks_are_the_whole_map(
    clicks: list[tuple[float, float, bool]], radius: float
) -> None:
    """Rewrite R6: the embedding is exactly zero without a disk, and the same elsewhere."""
    size = Geometry(COLUMNS * 14, ROWS * 14, COLUMNS, ROWS)
    objects = [[Click(*click) for click in clicks], []]
    points, labels = (torch.from_numpy(array) for array in fill_slots(objects, size))
    prompts = dense(radius)
    whole = prompts(points, labels, ROWS, COLUMNS)
    local = add_at(torch.zeros_like(whole), *prompts.local(points, labels, ROWS, COLUMNS))
    torch.testing.assert_close(local, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(local == 0, whole == 0)


def test_the_position_of_a_patch_is_that_of_its_centre() -> None:
    position = FourierPosition(32, 126)
    grid = position.grid(ROWS, COLUMNS, 14).view(ROWS, COLUMNS, 32)
    point = torch.tensor([3 * 14 + 6.5, 2 * 14 + 6.5])
    torch.testing.assert_close(grid[2, 3], position(point))
    unit = (point + 0.5) / 126
    phase = 2 * math.pi * ((2 * unit - 1) @ position.gaussian)
    torch.testing.assert_close(position(point), torch.cat((phase.sin(), phase.cos())))


def test_tokens_carry_their_sign_and_empty_slots_one_embedding() -> None:
    network = random_network()
    sparse = network.sparse
    assert sparse is not None
    labels = torch.full((1, SLOTS), -1, dtype=torch.int32)
    labels[0, 0], labels[0, SLOTS_PER_SIGN] = 1, 0
    position = network.position(torch.full((1, SLOTS, 2), 30.0))
    tokens = sparse(position, labels)
    torch.testing.assert_close(tokens[0, 0], position[0, 0] + sparse.type_embedding[0])
    torch.testing.assert_close(
        tokens[0, SLOTS_PER_SIGN], position[0, SLOTS_PER_SIGN] + sparse.type_embedding[1]
    )
    empty = labels[0] < 0
    assert torch.equal(tokens[0, empty], sparse.empty_embedding.expand(SLOTS - 2, -1))


@pytest.mark.parametrize("sign", [0, SLOTS_PER_SIGN])
def test_the_order_of_clicks_does_not_matter(sign: int) -> None:
    """Clicks of one sign can be in any order in their slots."""
    prompts = random_prompts(ROWS, COLUMNS, [(5, 5)], previous=[False])
    whole = dense()(prompts.points, prompts.labels, ROWS, COLUMNS)
    swapped = prompts.points.clone()
    swapped[:, sign : sign + 5] = prompts.points[:, sign : sign + 5].flip(1)
    torch.testing.assert_close(dense()(swapped, prompts.labels, ROWS, COLUMNS), whole)
