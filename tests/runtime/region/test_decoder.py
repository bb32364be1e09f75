"""A click on a region gives the logits of the whole decoder there, and its masks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ois_client.contract.geometry import Geometry
from ois_network.config import NetworkConfig
from ois_network.region import DecoderParts
from ois_network.split import ClickDecoder, ImageEncoder, detail_name
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import OUTSIDE, RegionForm
from ois_runtime.engines.region.windows import TailForm
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.region import TorchRegionDecoder
from support.network_scenes import (
    SMALL,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
)

ROWS, COLUMNS = 9, 12
CONFIGS: dict[str, NetworkConfig] = {
    "as the paper": SMALL,
    "photo": SMALL.replace(
        patch=16,
        longest=192,
        output_stride=2,
        aligned_corners=False,
        detail_channels=4,
        previous_mask=True,
        fine_prompts=True,
        keep_clicks=True,
    ),
}


class Scene:
    """An image state, three objects' prompts, and what the whole decoder says of them."""

    def __init__(self, config: NetworkConfig) -> None:
        network = random_network(config)
        image = random_image(config, ROWS, COLUMNS)
        state = ImageEncoder(network)(image, *position_matrices(config, ROWS, COLUMNS))
        self.decoder = ClickDecoder(network)
        counts = [(1, 0), (3, 2), (6, 1)]
        prompts = random_prompts(ROWS, COLUMNS, counts, previous=[False, True, True], config=config)
        logits, coverage = self.decoder(state, *prompts)
        self.logits: NDArray[np.float32] = logits.numpy()
        self.coverage: NDArray[np.uint8] = coverage.numpy()
        self.config = config
        self.prompts: HostPrompts = prompts.map(lambda tensor: tensor.numpy())
        width, height = COLUMNS * config.patch, ROWS * config.patch
        geometry = Geometry(width, height, COLUMNS, ROWS, config.patch, config.coverage_scale)
        self.state = TorchState.of(state, geometry)

    def regions(
        self, coarse: Sequence[float] | None = None, **changes: object
    ) -> TorchRegionDecoder:
        config = self.config
        detail = detail_name(config) if config.detail_channels else None
        form = {
            "tail": TailForm(config.patch, config.output_stride, config.aligned_corners, detail),
            "cell": config.coverage_stride,
            "keep_clicks": config.keep_clicks,
            "threshold": 0.0,
            **changes,
        }
        weights = coarse or [0.0] * (2 * config.head_features + 1)
        parts = DecoderParts.of(self.decoder, weights)
        return TorchRegionDecoder(RegionForm(**form), parts)  # type: ignore[arg-type]


@cache
def scene_of(name: str) -> Scene:
    with torch.inference_mode():
        return Scene(CONFIGS[name])


def _limit(scene: Scene) -> float:
    return 1e-4 * float(np.abs(scene.logits).max())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_whole_in_parts_is_the_whole(name: str) -> None:
    scene = scene_of(name)
    got = scene.regions().decode(scene.state, scene.prompts, whole=True)
    np.testing.assert_allclose(got.logits, scene.logits, atol=_limit(scene))
    assert float((got.coverage != scene.coverage).mean()) < 0.01  # a logit of about zero
    assert got.boxes == (None, None, None)


@pytest.mark.parametrize("name", CONFIGS)
def test_boxes_have_the_logits_of_the_whole_and_the_rest_is_outside(name: str) -> None:
    scene, patch = scene_of(name), CONFIGS[name].patch
    boxes = [[Box(0, 0, 4, 4)], [Box(3, 2, 9, 12), Box(0, 8, 2, 12)], []]
    got = scene.regions(keep_clicks=False).decode(scene.state, scene.prompts, boxes=boxes)
    plain = scene.regions(keep_clicks=False).decode(scene.state, scene.prompts, whole=True)
    for row, own in enumerate(got.boxes):
        inside = np.zeros(got.logits.shape[1:], dtype=np.bool_)
        for top, left, bottom, right in own or ():
            inside[top * patch : bottom * patch, left * patch : right * patch] = True
        want = np.where(inside, plain.logits[row], OUTSIDE)
        np.testing.assert_allclose(got.logits[row], want, atol=_limit(scene))
    assert got.boxes[2] == ()
    assert not got.coverage[2].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_region_grows_until_its_borders_are_background(name: str) -> None:
    """A coarse map that knows nothing: only the clicks say where to begin."""
    scene = scene_of(name)
    regions = scene.regions(threshold=1.0)
    got = regions.decode(scene.state, scene.prompts)
    patch = CONFIGS[name].patch
    for row, own in enumerate(got.boxes):
        if own is None:
            np.testing.assert_allclose(got.logits[row], scene.logits[row], atol=_limit(scene))
            continue
        decoded = got.logits[row] != OUTSIDE
        assert decoded.any()
        found = (got.logits[row] > 0) & decoded
        beside = np.zeros_like(decoded)
        beside[1:] |= ~decoded[:-1]
        beside[:-1] |= ~decoded[1:]
        beside[:, 1:] |= ~decoded[:, :-1]
        beside[:, :-1] |= ~decoded[:, 1:]
        assert not (found & beside).any(), (row, own, patch)


def test_a_coarse_map_that_fears_everything_decodes_everything() -> None:
    scene = scene_of("as the paper")
    got = scene.regions(threshold=-1.0).decode(scene.state, scene.prompts)
    assert got.boxes == (None, None, None)
    np.testing.assert_allclose(got.logits, scene.logits, atol=_limit(scene))
