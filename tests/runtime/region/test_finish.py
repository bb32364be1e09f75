"""Corrections of clicked pixels and coverage are those of the network."""

from __future__ import annotations

import numpy as np
import torch

from ois_client.contract.clicks import SLOTS
from ois_network import keep_clicks as network
from ois_network.order import coverage_of_logits
from ois_runtime.engines.region.finish import DEVIATION, GAIN, MARGIN, coverage_of, keep_clicks


def test_clicked_pixels_are_corrected_as_by_the_network() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 96, 128)).astype(np.float32)
    points = generator.uniform(-0.5, 127.5, size=(3, SLOTS, 2)).astype(np.float32)
    points[0, :4] = [(0, 0), (127, 95), (0, 95), (64.5, 40.25)]
    points[..., 1] = np.minimum(points[..., 1], 95)
    labels = generator.integers(-1, 2, size=(3, SLOTS)).astype(np.int32)
    given = (torch.from_numpy(each.copy()) for each in (logits, points, labels))
    expected = network.keep_clicks(*given).numpy()
    for row in range(3):
        keep_clicks(logits[row], points[row], labels[row])
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_the_constants_are_the_networks() -> None:
    assert (DEVIATION, MARGIN, GAIN) == (network._DEVIATION, network._MARGIN, network._GAIN)


def test_coverage_is_that_of_the_network() -> None:
    generator = np.random.default_rng(1)
    smooth = generator.normal(size=(12, 15)).repeat(7, 0).repeat(7, 1)
    logits = (smooth + 0.7 * generator.normal(size=smooth.shape)).astype(np.float32)
    logits[:14, :14], logits[:14, 14:28] = 1, -1
    logits[0, 14], logits[0, 0] = 1, -1
    for cell in (7, 3):
        image = logits[: 84 // cell * cell, : 105 // cell * cell]
        expected = coverage_of_logits(torch.from_numpy(image.copy())[None], cell)[0].numpy()
        np.testing.assert_array_equal(coverage_of(image, cell), expected)
