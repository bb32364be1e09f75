"""The two ways in which a head enlarges its maps."""

from __future__ import annotations

import pytest
import torch

from ois_network.dpt import DPTHead, upsample
from support.network_scenes import MICRO

COLUMNS, SHIFT, PATCH = 64, 4, 14


@pytest.mark.parametrize(("aligned", "same"), [(False, True), (True, False)])
@torch.no_grad()
def test_only_half_pixel_heads_do_the_same_everywhere(aligned: bool, same: bool) -> None:
    """A head must draw an object in the same way wherever it is in the image."""
    config = MICRO.replace(patch=PATCH, aligned_corners=aligned)
    torch.manual_seed(0)
    head = DPTHead(config).eval()
    levels = [torch.randn(1, channels, 2, COLUMNS) for channels in config.level_channels]
    whole = head(levels)
    shifted = head([level[..., SHIFT:] for level in levels])
    # Columns whose receptive field is inside both.
    inner = slice(24 * PATCH, 40 * PATCH)
    moved = slice((24 - SHIFT) * PATCH, (40 - SHIFT) * PATCH)
    difference = (whole[..., inner] - shifted[..., moved]).abs().max() / whole.abs().max()
    assert (float(difference) < 1e-5) is same


def test_aligned_corners_stretch_a_map_and_pixel_centres_do_not() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4)
    stretched, kept = (upsample(ramp, 1, 8, aligned=aligned)[0, 0, 0] for aligned in (True, False))
    assert stretched[0] == 0
    assert stretched[7] == 3
    assert torch.allclose(stretched.diff(), torch.full((7,), 3 / 7))
    assert torch.equal(kept[1:7], torch.arange(1, 7) / 2 - 0.25)
