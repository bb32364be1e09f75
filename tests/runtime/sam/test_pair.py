"""A SAM-family pair of ONNX files: clicks land where they were made, wrong files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.masks import mask_of_coco
from ois_runtime.sam.everything import LabelOptions, label_photograph
from ois_runtime.sam.pair import SamPair
from support.sam_files import RADIUS, SIDE, write_pair


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def pair(files: tuple[Path, Path]) -> SamPair:
    return SamPair(*files, threads=1)


def photograph(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disk(x: float, y: float, width: int, height: int) -> np.ndarray:
    """Where the stand-in's mask must be in the photograph."""
    radius = RADIUS * max(width, height) / SIDE
    rows, columns = np.indices((height, width))
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


@pytest.mark.parametrize(("width", "height"), [(128, 128), (200, 100), (90, 160)])
def test_a_mask_lies_around_its_click(pair: SamPair, width: int, height: int) -> None:
    embedding = pair.encode(photograph(width, height))
    x, y = 0.6 * width, 0.4 * height
    answer = pair.decode(embedding, [Click(x, y)])
    assert answer.logits.shape == (
        round(256 * height / max(width, height)),
        round(256 * width / max(width, height)),
    )
    assert answer.low_res.shape == (256, 256)
    assert answer.predicted_iou == pytest.approx(0.95)
    rows, columns = np.nonzero(answer.logits > 0)
    centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) * max(width, height) / 256
    np.testing.assert_allclose(centre, [x + 0.5, y + 0.5], atol=0.5)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (200, 100), (90, 161)])
def test_the_decoder_enlarges_its_mask_itself(pair: SamPair, width: int, height: int) -> None:
    embedding = pair.encode(photograph(width, height))
    click = Click(0.6 * width, 0.4 * height)
    mask, low_res = pair.mask(embedding, [click])
    expected = disk(click.x, click.y, width, height)
    assert mask.shape == (height, width)
    assert (mask & expected).sum() > 0.97 * (mask | expected).sum()
    np.testing.assert_array_equal(low_res, pair.decode(embedding, [click]).low_res)


def test_the_second_round_takes_the_mask_of_the_first(pair: SamPair) -> None:
    embedding = pair.encode(photograph(100, 80))
    first = pair.decode(embedding, [Click(50, 40)])
    again = pair.decode(embedding, [Click(50, 40), Click(10, 10, False)], first.low_res)
    np.testing.assert_array_equal(again.logits, first.logits)


def test_encoder_and_decoder_cannot_be_swapped(files: tuple[Path, Path]) -> None:
    encoder, decoder = files
    with pytest.raises(EngineError, match="Is it the decoder"):
        SamPair(decoder, encoder)
    with pytest.raises(EngineError, match="as SAM's export script names them"):
        SamPair(encoder, encoder)


def test_files_that_are_no_networks_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    with pytest.raises(EngineError, match="cannot be loaded"):
        SamPair(text, files[1])
    with pytest.raises(EngineError, match="is not a file"):
        SamPair(tmp_path / "none.onnx", files[1])


# -- everything in a photograph --------------------------------------------------------------------


def test_every_grid_point_gives_its_own_mask_and_duplicates_go(pair: SamPair) -> None:
    width, height = 256, 192
    options = LabelOptions(points_per_side=3, least_stability=0.5)
    labels = label_photograph(photograph(width, height), pair, options)
    assert len(labels) == 9
    for label in labels:
        mask = mask_of_coco(label.rle).astype(bool)
        expected = disk(*label.point, width, height)
        assert mask.shape == (height, width)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.97
        left, top, w, h = label.box
        assert label.area == mask.sum() == mask[top : top + h, left : left + w].sum()
    # Points so close that their disks overlap: only distinct masks stay.
    crowded = LabelOptions(points_per_side=24, least_stability=0.5, duplicate_iou=0.3)
    masks = [
        mask_of_coco(label.rle).astype(bool)
        for label in label_photograph(photograph(width, height), pair, crowded)
    ]
    assert 4 < len(masks) < 24 * 24
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert (mask & other).sum() / (mask | other).sum() < 0.35


@pytest.mark.parametrize(
    "changes", [{"least_iou": 0.96}, {"least_stability": 0.999}, {"least_share": 0.5}]
)
def test_masks_that_are_not_good_enough_are_dropped(
    pair: SamPair, changes: dict[str, float]
) -> None:
    options = LabelOptions(points_per_side=2, **{"least_stability": 0.5, **changes})
    assert label_photograph(photograph(128, 128), pair, options) == []


@pytest.mark.parametrize(
    "changes", [{"points_per_side": 0}, {"least_iou": 1.5}, {"least_share": 0.95}]
)
def test_impossible_options_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        LabelOptions(**changes)  # type: ignore[arg-type]
