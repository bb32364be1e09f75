"""Order maps are Equations 1 and 2, object masks Equations 4 and 5."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ois_client.contract.clicks import SLOTS, SLOTS_PER_SIGN
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.geometry import Geometry
from ois_network.order import (
    blocked_keys,
    coverage_of_logits,
    grid_coverage,
    order_maps,
    pool_to_grid,
    relative_depth,
    sample_bilinear,
    slot_depths,
)
from support.network_scenes import random_prompts

PATCH = 14


def numpy_order_maps(
    inverse_depth: NDArray[np.float64], points: NDArray[np.float64], labels: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Equations 1 and 2 for one object: inverse depth (h, w) -> M (48, K)."""
    depth = 1 - (inverse_depth - inverse_depth.min()) / np.ptp(inverse_depth)
    height, width = depth.shape
    grid = depth.reshape(height // PATCH, PATCH, width // PATCH, PATCH).mean((1, 3)).ravel()

    def at(x: float, y: float) -> float:
        x0, y0 = int(x), int(y)
        x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
        above = (x0 + 1 - x) * depth[y0, x0] + (x - x0) * depth[y0, x1]
        below = (x0 + 1 - x) * depth[y1, x0] + (x - x0) * depth[y1, x1]
        return float((y0 + 1 - y) * above + (y - y0) * below)

    maps = np.zeros((SLOTS, grid.size))
    positive = [j for j in range(SLOTS_PER_SIGN) if labels[j] == 1]
    for slot in range(SLOTS):
        if labels[slot] == 1:
            maps[slot] = np.abs(grid - np.mean([at(*points[j]) for j in positive]))
        elif labels[slot] == 0:
            maps[slot] = np.abs(grid - at(*points[slot]))
    return maps


def test_order_maps_are_the_equations() -> None:
    rows, columns = 3, 5
    rng = np.random.default_rng(1)
    inverse = rng.uniform(0, 80, (rows * PATCH, columns * PATCH))
    counts = [(1, 0), (3, 2), (24, 24), (0, 2)]
    prompts = random_prompts(rows, columns, counts, previous=[False] * 4)
    raw = torch.from_numpy(inverse).unsqueeze(0)
    depth = relative_depth(raw, raw.amin((1, 2)), raw.amax((1, 2)))
    assert (depth.min(), depth.max()) == (0, 1)
    points = prompts.points.double()
    centres = slot_depths(sample_bilinear(depth, points), prompts.labels)
    got = order_maps(pool_to_grid(depth, PATCH).flatten(1), centres, prompts.labels)
    expected = [
        numpy_order_maps(inverse, points[n].numpy(), prompts.labels[n].numpy())
        for n in range(len(counts))
    ]
    np.testing.assert_allclose(got.numpy(), np.stack(expected), atol=1e-12)


def test_near_is_low_and_far_is_high() -> None:
    inverse = torch.tensor([[[8.0, 4.0], [2.0, 0.0]]])
    depth = relative_depth(inverse, torch.tensor([0.0]), torch.tensor([8.0]))
    assert depth.tolist() == [[[0.0, 0.5], [0.75, 1.0]]]


def test_a_flat_depth_map_has_no_order() -> None:
    flat = torch.full((1, 28, 28), 3.0)
    depth = relative_depth(flat, flat.amin((1, 2)), flat.amax((1, 2)))
    assert torch.equal(depth, torch.zeros_like(flat))


def test_samples_outside_the_image_are_those_of_its_border() -> None:
    image = torch.arange(12.0).view(1, 3, 4)
    points = torch.tensor([[[-5.0, -5.0], [99.0, 1.0], [1.5, 99.0], [3.0, 2.0]]])
    assert sample_bilinear(image, points).tolist() == [[0.0, 7.0, 9.5, 11.0]]


def mask_prompts() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.full((1, SLOTS), -1, dtype=torch.int32)
    labels[0, 0], labels[0, SLOTS_PER_SIGN] = 1, 0
    return labels, torch.tensor([True])


def test_positive_slots_attend_to_foreground_and_negative_slots_to_background() -> None:
    labels, previous = mask_prompts()
    coverage = torch.tensor([[[0, 1, 128, 254, 255]]], dtype=torch.uint8)
    blocked = blocked_keys(coverage, previous, labels)
    assert blocked[0, 0].tolist() == [True, False, False, False, False]
    assert blocked[0, SLOTS_PER_SIGN].tolist() == [False, False, False, False, True]
    empty = [slot for slot in range(SLOTS) if slot not in (0, SLOTS_PER_SIGN)]
    assert not blocked[0, empty].any()


def test_empty_slots_can_be_masked_by_halves() -> None:
    labels, previous = mask_prompts()
    coverage = torch.tensor([[[0, 1, 128, 254, 255]]], dtype=torch.uint8)
    blocked = blocked_keys(coverage, previous, labels, empty=True)
    ours = blocked_keys(coverage, previous, labels)
    assert torch.equal(blocked[0, :SLOTS_PER_SIGN], ours[0, :1].expand(SLOTS_PER_SIGN, -1))
    negative = ours[0, SLOTS_PER_SIGN : SLOTS_PER_SIGN + 1]
    assert torch.equal(blocked[0, SLOTS_PER_SIGN:], negative.expand(SLOTS_PER_SIGN, -1))
    full = torch.full_like(coverage, 255)  # negative slots would see nothing, so they see all
    assert not blocked_keys(full, previous, labels, empty=True).any()
    assert not blocked_keys(coverage, torch.tensor([False]), labels, empty=True).any()


def test_without_a_previous_mask_nothing_is_blocked() -> None:
    labels, _ = mask_prompts()
    coverage = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    assert not blocked_keys(coverage, torch.tensor([False]), labels).any()


@settings(deadline=None, max_examples=60)
@given(
    coverage=hnp.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 254, 255])),
    previous=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_every_slot_may_attend_to_some_patch(
    coverage: NDArray[np.uint8], previous: tuple[bool, bool], seed: int
) -> None:
    """Even with an empty previous mask, and with one that covers the whole image."""
    prompts = random_prompts(3, 4, [(2, 1), (0, 3)], previous=list(previous), seed=seed)
    for cover in (coverage, np.zeros_like(coverage), np.full_like(coverage, 255)):
        blocked = blocked_keys(torch.from_numpy(cover), prompts.has_previous, prompts.labels)
        assert not blocked.all(2).any()
        assert not blocked[prompts.labels < 0].any()


@settings(deadline=None, max_examples=60)
@given(mask=hnp.arrays(np.bool_, (28, 42)), whole=st.booleans(), one=st.integers(0, 28 * 42 - 1))
def test_coverage_of_logits_is_the_clients_coverage(
    mask: NDArray[np.bool_], whole: bool, one: int
) -> None:
    """Above all, both must agree on which patches have no foreground and no background."""
    if whole:
        mask = np.ones_like(mask)
        mask.flat[one] = False
    logits = torch.from_numpy(np.where(mask, 0.5, -0.5).astype(np.float32)).unsqueeze(0)
    got = coverage_of_logits(logits, PATCH)[0].numpy().astype(int)
    expected = coverage_of_mask(mask, Geometry.fit(42, 28, longest=42)).astype(int)
    assert np.array_equal(got == 0, expected == 0)
    assert np.array_equal(got == 255, expected == 255)
    assert np.abs(got - expected).max() <= 1  # 254.5 may round either way


@settings(deadline=None, derandomize=True, max_examples=40)
@given(hnp.arrays(np.bool_, (32, 48)), st.integers(0, 3), st.integers(0, 32 * 48 - 1))
def test_a_fine_coverage_tells_the_same_patches_as_a_coarse_one(
    mask: NDArray[np.bool_], kind: int, one: int
) -> None:
    if kind < 2:  # everything but one pixel
        mask = np.full_like(mask, bool(kind))
        mask.flat[one] = not kind
    fine = Geometry.fit(48, 32, longest=48, patch=16, coverage_scale=4)
    coarse = Geometry.fit(48, 32, longest=48, patch=16)
    got = grid_coverage(torch.from_numpy(coverage_of_mask(mask, fine))[None], 4)[0].numpy()
    expected = coverage_of_mask(mask, coarse)
    assert np.array_equal(got == 0, expected == 0)
    assert np.array_equal(got == 255, expected == 255)
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 2
