"""The losses agree with their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ois_network.training.losses import (
    click_loss,
    depth_l1_loss,
    depth_ssi_loss,
    grouping_loss,
    normalised_focal_loss,
    patch_shares,
    soft_iou_loss,
)

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 2, (3, 8, 9))
TARGET = rng.random((3, 8, 9)) < 0.4


def numpy_nfl(logits: np.ndarray, target: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    """The formula of RITM's `NormalizedFocalLossSigmoid`."""
    p = 1 / (1 + np.exp(-logits))
    p_t = 1 - np.abs(target - p)
    beta = (1 - p_t) ** gamma
    pixels = logits.shape[1] * logits.shape[2]
    mult = pixels / beta.sum((1, 2), keepdims=True)
    alpha_t = np.where(target, alpha, 1 - alpha)
    return (-alpha_t * beta * mult * np.log(p_t)).mean((1, 2))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 2.0), (0.25, 1.0), (1.0, 0.0)])
def test_normalised_focal_loss_is_the_formula(alpha: float, gamma: float) -> None:
    found = normalised_focal_loss(
        torch.tensor(LOGITS), torch.tensor(TARGET), alpha=alpha, gamma=gamma
    )
    np.testing.assert_allclose(found, numpy_nfl(LOGITS, TARGET, alpha, gamma), rtol=1e-5)


def test_without_focusing_it_is_half_the_cross_entropy() -> None:
    found = normalised_focal_loss(torch.tensor(LOGITS), torch.tensor(TARGET), gamma=0.0)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.tensor(TARGET, dtype=torch.float64), reduction="none"
    )
    np.testing.assert_allclose(found, 0.5 * entropy.mean((1, 2)), rtol=1e-5)


def test_the_normalisation_is_a_constant_to_the_gradient() -> None:
    logits = torch.tensor(LOGITS, dtype=torch.float32, requires_grad=True)
    normalised_focal_loss(logits, torch.tensor(TARGET)).sum().backward()
    p = torch.sigmoid(torch.tensor(LOGITS))
    p_t = torch.where(torch.tensor(TARGET), p, 1 - p)
    mult = 72 / ((1 - p_t) ** 2).sum((1, 2), keepdim=True)
    free = torch.tensor(LOGITS, requires_grad=True)
    p_t = torch.where(torch.tensor(TARGET), free.sigmoid(), 1 - free.sigmoid())
    (-0.5 * (1 - p_t) ** 2 * mult * p_t.log()).mean((1, 2)).sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, free.grad, rtol=1e-4, atol=1e-8)


def test_a_perfect_and_confident_mask_has_no_loss_and_a_finite_gradient() -> None:
    target = torch.tensor(TARGET)
    logits = torch.where(target, 200.0, -200.0).requires_grad_()
    loss = normalised_focal_loss(logits, target).sum() + soft_iou_loss(logits, target).sum()
    loss.backward()
    assert loss.item() < 1e-5
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_soft_iou_of_confident_masks_is_the_iou() -> None:
    predicted = rng.random((3, 8, 9)) < 0.5
    logits = torch.where(torch.tensor(predicted), 50.0, -50.0)
    both = (predicted & TARGET).sum((1, 2)) + 1
    union = (predicted | TARGET).sum((1, 2)) + 1
    found = soft_iou_loss(logits, torch.tensor(TARGET))
    np.testing.assert_allclose(found, 1 - both / union, rtol=1e-5)


def test_depth_l1_is_the_mean_absolute_error() -> None:
    a, b = torch.tensor(LOGITS), torch.tensor(LOGITS[::-1].copy())
    expected = np.abs(LOGITS - LOGITS[::-1]).mean((1, 2))
    np.testing.assert_allclose(depth_l1_loss(a, b), expected, rtol=1e-5, atol=1e-6)


def test_ssi_depth_loss_ignores_scale_and_shift_only() -> None:
    depth = torch.tensor(LOGITS, dtype=torch.float32)
    np.testing.assert_allclose(depth_ssi_loss(3 * depth + 5, depth), np.zeros(3), atol=1e-5)
    assert (depth_ssi_loss(-depth, depth) > 0.5).all()
    assert torch.isfinite(depth_ssi_loss(torch.zeros_like(depth), depth)).all()


# -- grouping ----------------------------------------------------------------------------------

PATCH = 4
WHOLE = torch.tensor(
    np.kron([[0, 1, 1, 0], [2, 2, 1, 0], [2, 2, 3, 0]], np.ones((PATCH, PATCH))), dtype=torch.uint8
).unsqueeze(0)
INSTANCES = WHOLE.clone()
INSTANCES[0, :2, 4:8] = 0  # half of one patch


def test_patch_shares_are_means_over_patches() -> None:
    shares = patch_shares(INSTANCES, PATCH)
    assert shares.shape == (1, 12, 4)
    for k in range(4):
        cells = (INSTANCES[0] == k).float().unflatten(0, (3, 4)).unflatten(2, (4, 4))
        expected = cells.mean((1, 3))
        torch.testing.assert_close(shares[0, :, k].reshape(3, 4), expected)


def numpy_grouping(features: np.ndarray, shares: np.ndarray) -> float:
    """The docstring of `grouping_loss`, as loops."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    total = []
    for k in range(1, shares.shape[1]):
        of, same, different = shares[:, k], 0.0, 0.0
        for i in range(len(unit)):
            logits = np.array([10 * (unit[i] @ other) - 5 for other in unit])
            same += of[i] / of.sum() * (np.log1p(np.exp(-logits)) * of).sum() / of.sum()
            focal = (1 - of) / (1 + np.exp(-logits))
            different += of[i] / of.sum() * (np.log1p(np.exp(logits)) * focal).sum() / focal.sum()
        total.append(same + different)
    return float(np.mean(total))


def test_grouping_loss_is_what_its_docstring_says() -> None:
    features = rng.normal(size=(12, 6))
    shares = patch_shares(INSTANCES, PATCH)[0].double().numpy()
    found = grouping_loss(torch.tensor(features[None]), INSTANCES, PATCH)
    np.testing.assert_allclose(found, [numpy_grouping(features, shares)], rtol=1e-5)


def test_grouping_is_low_for_similar_objects_whatever_the_background() -> None:
    majority = patch_shares(WHOLE, PATCH)[0].argmax(1)
    ideal = torch.nn.functional.one_hot(majority, 70).float()
    ideal[majority == 0] = 0
    for number, patch in enumerate((majority == 0).nonzero()[:, 0]):
        ideal[patch, 10 + number] = 1  # each background patch is like no other
    loss = grouping_loss(ideal[None], WHOLE, PATCH)
    assert loss < 0.02
    merged = ideal.clone()
    merged[majority == 2] = merged[majority == 1][0]
    assert grouping_loss(merged[None], WHOLE, PATCH) > loss + 2


def test_an_image_without_objects_has_no_grouping_loss() -> None:
    features = torch.ones(2, 12, 6, requires_grad=True)
    nothing = torch.zeros(1, 12, 16, dtype=torch.uint8)
    loss = grouping_loss(features, torch.cat([nothing, INSTANCES]), PATCH)
    assert loss[0] == 0
    assert loss[1] > 0
    alone = grouping_loss(features, torch.cat([nothing, nothing]), PATCH)
    assert alone.tolist() == [0, 0]
    alone.sum().backward()


def test_the_click_loss_is_low_where_clicks_are_on_the_right_side() -> None:
    logits = torch.full((2, 8, 8), -8.0)
    logits[:, :, :4] = 8.0
    points = torch.zeros(2, 48, 2)
    points[:, 0, 0], points[:, 24, 0] = 1.0, 6.0  # a positive and a negative click
    labels = torch.full((2, 48), -1)
    labels[:, 0], labels[:, 24] = 1, 0
    right = click_loss(logits, points, labels)
    wrong = click_loss(-logits, points, labels)
    assert right.shape == (2,)
    assert float(right.max()) < 0.01
    assert float(wrong.min()) > 7
    empty = torch.full((2, 48), -1)
    assert float(click_loss(logits, points, empty).abs().max()) == 0
