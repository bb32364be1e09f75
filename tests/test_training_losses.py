"""The losses agree with their formulas, written again in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ois_network.training.losses import (
    depth_l1_loss,
    depth_ssi_loss,
    normalised_focal_loss,
    soft_iou_loss,
)

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 2, (3, 8, 9))
TARGET = rng.random((3, 8, 9)) < 0.4


def numpy_nfl(logits: np.ndarray, target: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    """RITM's `NormalizedFocalLossSigmoid`, from the formula."""
    p = 1 / (1 + np.exp(-logits))
    p_t = 1 - np.abs(target - p)
    beta = (1 - p_t) ** gamma
    pixels = logits.shape[1] * logits.shape[2]
    mult = pixels / beta.sum((1, 2), keepdims=True)
    return (-alpha * beta * mult * np.log(p_t)).mean((1, 2))


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


def test_a_perfect_and_confident_mask_costs_nothing_and_stays_finite() -> None:
    target = torch.tensor(TARGET)
    logits = torch.where(target, 200.0, -200.0).requires_grad_()
    loss = normalised_focal_loss(logits, target).sum() + soft_iou_loss(logits, target).sum()
    loss.backward()
    assert loss.item() < 1e-5
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_soft_iou_of_certain_masks_is_the_iou() -> None:
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
