"""Data sets on disk: their layouts are found, and missing files are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_client.contract.errors import InvalidInput
from ois_network.training.config import AugmentConfig, Stage, TrainConfig, load_recipe
from ois_network.training.data.collections import (
    Pair,
    SkippedPair,
    davis,
    folders,
    hqseg44k,
    read_pair,
)
from ois_network.training.data.sources import PairSource
from support.network_scenes import MICRO

THIN = "thin_object_detection"
TRAIN = [
    ("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt"),
    (f"{THIN}/ThinObject5K/images_train", f"{THIN}/ThinObject5K/masks_train"),
    *[(f"cascade_psp/{name}",) * 2 for name in ("fss_all", "DUTS-TR", "DUTS-TE", "ecssd",
                                                 "MSRA_10K")],
]  # fmt: skip
VAL = [
    ("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
    (f"{THIN}/ThinObject5K/images_test", f"{THIN}/ThinObject5K/masks_test"),
    (f"{THIN}/COIFT/images", f"{THIN}/COIFT/masks"),
    (f"{THIN}/HRSOD/images", f"{THIN}/HRSOD/masks_max255"),
]


def write_image(path: Path, width: int = 12, height: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, width: int = 12, height: int = 8, value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[2:6, 3:9] = value
    Image.fromarray(mask).save(path)
    return path


def write_tree(root: Path, layout: list[tuple[str, str]], each: int = 2) -> None:
    for images, masks in layout:
        for number in range(each):
            write_image(root / images / f"{number}.jpg")
            write_mask(root / masks / f"{number}.png")


@pytest.mark.parametrize(("split", "layout"), [("train", TRAIN), ("val", VAL)])
def test_hqseg44k_is_found_in_its_layout(
    tmp_path: Path, split: str, layout: list[tuple[str, str]]
) -> None:
    write_tree(tmp_path, layout)
    collection = hqseg44k(tmp_path, split)
    assert len(collection.pairs) == 2 * len(layout)
    assert len({pair.name for pair in collection.pairs}) == 2 * len(layout)
    assert all(p.image.suffix == ".jpg" and p.mask.suffix == ".png" for p in collection.pairs)
    assert not collection.skipped


def test_missing_parts_of_hqseg44k_are_all_named(tmp_path: Path) -> None:
    write_tree(tmp_path, TRAIN[:3])
    with pytest.raises(InvalidInput, match=r"DUTS-TR.*DUTS-TE.*ecssd.*MSRA_10K"):
        hqseg44k(tmp_path)
    collection = hqseg44k(tmp_path, partial=True)
    assert len(collection.pairs) == 6
    assert collection.skipped["missing folder"] == 4


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="train, val"):
        hqseg44k(tmp_path, "test")


def test_files_without_a_partner_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "img/a.jpg")
    write_mask(tmp_path / "gt/a.png")
    write_image(tmp_path / "img/only_image.jpg")
    write_mask(tmp_path / "gt/only_mask1.png")
    write_mask(tmp_path / "gt/only_mask2.png")
    collection = davis(tmp_path)
    assert [pair.name for pair in collection.pairs] == ["a"]
    assert collection.skipped == {"image without mask": 1, "mask without image": 2}
    assert collection.report().endswith(
        "1 pairs where the published data set has 345, "
        "1 skipped (image without mask), 2 skipped (mask without image)"
    )
    assert not collection.complete


def test_files_of_the_same_name_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "x/a.jpg")
    write_image(tmp_path / "x/a.png")
    write_mask(tmp_path / "y/a.png")
    collection = folders(tmp_path / "x", tmp_path / "y")
    assert len(collection.pairs) == 1
    assert collection.skipped == {"image of the same name": 1}


def test_pairs_are_refused_by_a_recipe_that_needs_depth(tmp_path: Path) -> None:
    write_image(tmp_path / "x/a.jpg")
    write_mask(tmp_path / "y/a.png")
    with pytest.raises(InvalidInput, match=r"objects = 0.*Train on `scenes`"):
        PairSource(folders(tmp_path / "x", tmp_path / "y"), MICRO, load_recipe("tiny"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "img/a.jpg")
    with pytest.raises(InvalidInput, match="gt does not exist"):
        davis(tmp_path)


def test_folders_without_a_pair_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "x/a.jpg")
    write_mask(tmp_path / "y/b.png")
    with pytest.raises(InvalidInput, match="has no image with a mask"):
        folders(tmp_path / "x", tmp_path / "y")


def test_masks_may_carry_a_suffix(tmp_path: Path) -> None:
    write_image(tmp_path / "x/a.jpg")
    write_mask(tmp_path / "y/a_mask.png")
    assert len(folders(tmp_path / "x", tmp_path / "y").pairs) == 1


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA"])
def test_any_non_zero_channel_is_object(tmp_path: Path, mode: str) -> None:
    image = write_image(tmp_path / "a.jpg")
    values = np.zeros((8, 12), dtype=np.uint8)
    values[2:6, 3:9] = 1  # class index 1: nearly black, but an object
    if mode == "P":
        picture = Image.new("P", (12, 8))
        picture.frombytes(values.tobytes())
        picture.putpalette([0, 0, 0] * 256)  # every index is black
    elif mode == "1":
        picture = Image.fromarray(values * 255).convert("1")
    elif mode in ("RGB", "RGBA"):
        layers = np.zeros((8, 12, len(mode)), dtype=np.uint8)
        layers[..., 2] = values
        if mode == "RGBA":
            layers[..., 3] = 255  # opaque everywhere; alpha is not the mask
        picture = Image.fromarray(layers)
    else:
        picture = Image.fromarray(values)
    picture.save(tmp_path / "a.png")
    _, mask = read_pair(Pair("a", image, tmp_path / "a.png"))
    np.testing.assert_array_equal(mask, values > 0)


def test_unusable_pairs_say_why(tmp_path: Path) -> None:
    image, mask = write_image(tmp_path / "a.jpg"), write_mask(tmp_path / "a.png")
    other_size = write_mask(tmp_path / "b.png", width=13)
    empty = write_mask(tmp_path / "c.png", value=0)
    broken = tmp_path / "d.png"
    broken.write_bytes(mask.read_bytes()[:40])
    text = tmp_path / "e.jpg"
    text.write_text("not an image")
    cases = {
        "mask of another size": Pair("b", image, other_size),
        "empty mask": Pair("c", image, empty),
        "unreadable mask": Pair("d", image, broken),
        "unreadable image": Pair("e", text, mask),
    }
    for reason, pair in cases.items():
        with pytest.raises(SkippedPair) as caught:
            read_pair(pair)
        assert caught.value.reason == reason
    with pytest.raises(SkippedPair, match="13x8 pixels, its image 12x8"):
        read_pair(cases["mask of another size"])


RECIPE = TrainConfig(
    network="tiny", stages=(Stage(longest=56, steps=4),), augment=AugmentConfig(on=False)
)


def test_an_unusable_pair_is_replaced_and_reported(tmp_path: Path) -> None:
    write_image(tmp_path / "img/a.jpg")
    write_mask(tmp_path / "gt/a.png", value=0)
    write_image(tmp_path / "img/b.jpg")
    write_mask(tmp_path / "gt/b.png")
    source = PairSource(davis(tmp_path), MICRO, RECIPE)
    sample = source.sample(0, None, RECIPE.stages[0], np.random.default_rng(0))
    assert sample.name == "b"
    assert sample.skipped == ("empty mask: a",)
    assert sample.image.shape == (42, 56, 3)  # 12x8 at 56: 37.3 rows -> three patches
    assert sample.masks[0].shape == (42, 56)


def test_a_data_set_of_unusable_pairs_is_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "img/a.jpg")
    write_mask(tmp_path / "gt/a.png", value=0)
    source = PairSource(davis(tmp_path), MICRO, RECIPE)
    with pytest.raises(InvalidInput, match="empty mask: a"):
        source.sample(0, None, RECIPE.stages[0], np.random.default_rng(0))
