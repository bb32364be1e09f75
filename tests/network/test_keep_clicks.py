"""Clicked pixels come out right, and nothing changes where they were right already."""

from __future__ import annotations

import torch

from ois_client.contract.clicks import EMPTY, NEGATIVE, POSITIVE, SLOTS
from ois_network.keep_clicks import keep_clicks
from ois_network.order import sample_bilinear

HEIGHT, WIDTH = 60, 96


def clicks(*places: tuple[float, float, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """points (1, 48, 2) and labels (1, 48) of clicks (x, y, label)."""
    points = torch.zeros(1, SLOTS, 2)
    labels = torch.full((1, SLOTS), EMPTY, dtype=torch.int32)
    free = {POSITIVE: 0, NEGATIVE: SLOTS // 2}
    for x, y, label in places:
        points[0, free[label]] = torch.tensor([x, y])
        labels[0, free[label]] = label
        free[label] += 1
    return points, labels


def random_logits(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 8 * torch.randn(1, HEIGHT, WIDTH, generator=generator)


def test_every_click_is_followed_wherever_it_lies_between_pixels() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        grid = torch.tensor([(x, y) for x in (0.0, 30.0, 60.0, 95.0) for y in (0.0, 25.0, 59.0)])
        places = (grid + 3 * torch.rand(grid.shape, generator=generator)).clamp(
            max=torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
        )
        points, labels = clicks(
            *((float(x), float(y), (POSITIVE, NEGATIVE)[n % 2]) for n, (x, y) in enumerate(places))
        )
        kept = keep_clicks(random_logits(seed), points, labels)
        at_clicks = sample_bilinear(kept, points)
        assert (at_clicks[labels == POSITIVE] > 0).all()
        assert (at_clicks[labels == NEGATIVE] < 0).all()


def test_clicks_that_were_followed_change_nothing() -> None:
    logits = torch.full((1, HEIGHT, WIDTH), 3.0)
    points, labels = clicks((10.5, 20.25, POSITIVE), (70, 5, POSITIVE))
    assert torch.equal(keep_clicks(logits, points, labels), logits)
    points, labels = clicks((10.5, 20.25, NEGATIVE))
    assert torch.equal(keep_clicks(-logits, points, labels), -logits)


def test_a_correction_is_local() -> None:
    logits = torch.full((1, HEIGHT, WIDTH), -4.0)
    kept = keep_clicks(logits, *clicks((40, 30, POSITIVE)))
    rows, columns = (kept[0] > 0).nonzero(as_tuple=True)
    assert 1 <= len(rows) <= 9
    assert (rows - 30).abs().max() <= 2
    assert (columns - 40).abs().max() <= 2


def test_empty_slots_add_nothing() -> None:
    logits = random_logits(0)
    points, labels = clicks()
    points += 30.0
    assert torch.equal(keep_clicks(logits, points, labels), logits)
