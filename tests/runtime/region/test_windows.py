"""Inside a region, the logits are those of the whole decoder: for any box, at any border."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ois_network.config import NetworkConfig
from ois_network.region import RegionTail, Tail, crop_names
from ois_network.split import ClickDecoder, detail_name
from ois_runtime.engines.region.windows import CELLS, TailForm, Tiles, Windows, upsampling
from support.network_scenes import SMALL, random_network

CONFIGS: dict[str, NetworkConfig] = {
    "as the paper": SMALL,
    "patch 16, half size": SMALL.replace(patch=16, longest=128, output_stride=2),
    "patch 12, third size": SMALL.replace(patch=12, longest=120, output_stride=3),
    "half size": SMALL.replace(output_stride=2),
    "half pixel, details": SMALL.replace(aligned_corners=False, detail_channels=4),
    "photo": SMALL.replace(
        patch=16, longest=128, output_stride=2, aligned_corners=False, detail_channels=4
    ),
}


@cache
def tail_of(
    name: str, rows: int, columns: int
) -> tuple[TailForm, RegionTail, dict[str, Tensor], Tensor]:
    """The form, the tail for crops, the maps of an image, and the logits of the whole image."""
    config = CONFIGS[name]
    network = random_network(config)
    path = torch.randn(2, config.head_features, CELLS * rows, CELLS * columns)
    maps = {"path": path}
    form = TailForm(config.patch, config.output_stride, config.aligned_corners)
    if config.detail_channels:
        sides = (side * config.patch // config.output_stride for side in (rows, columns))
        form = TailForm(form.patch, form.stride, form.aligned, detail_name(config))
        maps[detail_name(config)] = torch.randn(1, config.detail_channels, *sides)
    decoder = ClickDecoder(network)
    return form, RegionTail(network), maps, Tail(decoder)(maps)


@pytest.mark.parametrize("name", CONFIGS)
@given(
    rows=st.sampled_from([(5, 0, 5), (12, 0, 2), (12, 5, 1), (12, 8, 4), (12, 3, 6)]),
    columns=st.sampled_from([(1, 0, 1), (14, 0, 5), (14, 1, 2), (14, 13, 1), (14, 6, 3)]),
)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_region_is_the_whole_there(
    name: str, rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> None:
    form, tail, maps, expected = tail_of(name, rows[0], columns[0])
    down, across = Windows.of(form, *rows), Windows.of(form, *columns)
    given = {"path": maps["path"][:, :, down.path, across.path]}
    if form.detail is not None:
        given[form.detail] = maps[form.detail][:, :, down.output, across.output]
    matrices = {**down.named("rows"), **across.named("columns")}
    given |= {name: torch.from_numpy(matrix.copy()) for name, matrix in matrices.items()}
    assert set(given) == set(crop_names(CONFIGS[name]))
    got = tail(given)[:, down.inner, across.inner]
    box = [
        slice(first * form.patch, (first + count) * form.patch)
        for _, first, count in (rows, columns)
    ]
    want = expected[:, box[0], box[1]]
    assert float(want.std()) > 0.01, "a flat map would agree with anything"
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("aligned", [True, False])
@given(source=st.integers(1, 40), factor=st.sampled_from([2, 1.75, 3, 8 / 7]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_matrices_are_the_upsampling_of_pytorch(aligned: bool, source: int, factor: float) -> None:
    size = max(1, int(source * factor))
    line = torch.randn(1, 1, source, 1)
    want = torch.nn.functional.interpolate(
        line, size=(size, 1), mode="bilinear", align_corners=aligned
    )[0, 0, :, 0]
    matrix: NDArray[np.float32] = upsampling(
        slice(0, size), slice(0, source), size, source, aligned=aligned
    )
    np.testing.assert_allclose(matrix @ line[0, 0, :, 0].numpy(), want.numpy(), atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
@given(
    patches=st.integers(1, 9), cells=st.sampled_from([4, 8, 7]), samples=st.sampled_from([8, 14])
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_tiles_are_the_matrix(aligned: bool, patches: int, cells: int, samples: int) -> None:
    size, source = patches * samples, patches * cells
    matrix = upsampling(slice(0, size), slice(0, source), size, source, aligned=aligned)
    tiles = Tiles.of(matrix, samples, (samples - 1) * cells // samples + 3)
    line = np.random.default_rng(0).normal(size=source).astype(np.float32)
    got = (tiles.matrices @ line[tiles.cells][:, :, None]).reshape(-1)
    np.testing.assert_allclose(got, matrix @ line, atol=1e-5)


def test_windows_of_one_size_have_one_shape_wherever_they_are() -> None:
    form = TailForm(14, 1, aligned=True)
    shapes = {
        (windows.to_eight.matrices.shape, windows.path.stop - windows.path.start)
        for first in range(30)
        for windows in [Windows.of(form, 40, first, 10)]
    }
    assert len(shapes) == 1
