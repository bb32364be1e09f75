"""Composites, labelled photographs, mixtures, and pictures that are reserved for evaluation."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import ois_export
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import coco_of_mask
from ois_network.config import preset
from ois_network.training.config import Stage, TrainConfig, load_recipe
from ois_network.training.data.coco import coco
from ois_network.training.data.mixture import MixtureSource
from ois_network.training.data.photographs import AnnotatedSource, CompositeSource, read_cutout
from ois_network.training.data.reserved import refuse_reserved
from ois_network.training.data.sources import Sample, SceneSource
from ois_network.training.scenes.composite import CutOut, compose

STAGE = Stage(longest=96, objects=3, steps=1)
RECIPE = load_recipe("photo")
NETWORK = preset("photo")


def noise(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def cutout(seed: int = 0) -> CutOut:
    alpha = np.zeros((80, 60), dtype=np.uint8)
    alpha[10:70, 10:50] = 255
    return CutOut(f"box {seed}", noise(60, 80, seed), alpha)


def save_cutout(path: Path, *, drawing: bool = False) -> Path:
    one = cutout()
    colour = np.full_like(one.picture, 90) if drawing else one.picture
    Image.fromarray(np.dstack((colour, one.alpha)), "RGBA").save(path)
    return path


# -- composites -------------------------------------------------------------------------------


def test_a_composite_is_the_same_for_the_same_draw() -> None:
    scenes = [compose(noise(96, 64, 1), [cutout()], np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(scenes[0].image, scenes[1].image)
    assert np.array_equal(scenes[0].instances, scenes[1].instances)


def test_later_objects_are_nearer_and_cover_earlier_ones() -> None:
    seen = 0
    for seed in range(20):
        back = noise(96, 64, seed)
        scene = compose(back, [cutout(k) for k in range(3)], np.random.default_rng(seed))
        assert scene.image.shape == back.shape
        assert scene.image.dtype == np.uint8
        present = np.unique(scene.instances[scene.instances > 0])
        depths = [float(scene.depth[scene.instances == k].mean()) for k in present]
        assert depths == sorted(depths)
        for number in present:
            inside = scene.instances == number
            assert np.ptp(scene.depth[inside]) == 0
            assert scene.depth[inside].min() > scene.depth[scene.instances == 0].max()
        seen += len(present)
    assert seen > 30


def test_the_mask_is_where_the_picture_changed() -> None:
    grey = np.full((64, 96, 3), 128, dtype=np.uint8)
    red = CutOut("red", np.full((40, 40, 3), (255, 0, 0), dtype=np.uint8),
                 np.full((40, 40), 255, dtype=np.uint8))  # fmt: skip
    scene = compose(grey, [red], np.random.default_rng(3))
    inside = scene.instances > 0
    assert inside.any()
    redness = scene.image[..., 0].astype(int) - scene.image[..., 1]
    assert redness[inside].mean() > 60
    assert abs(redness[~inside].mean()) < 12


def test_drawings_and_pictures_without_an_outline_are_no_cut_outs(tmp_path: Path) -> None:
    assert read_cutout(save_cutout(tmp_path / "photo.png")) is not None
    assert read_cutout(save_cutout(tmp_path / "drawing.png", drawing=True)) is None
    Image.fromarray(noise(60, 60, 0)).save(tmp_path / "whole.png")
    assert read_cutout(tmp_path / "whole.png") is None
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert read_cutout(tmp_path / "broken.png") is None


def test_composites_need_cut_outs_and_photographs(tmp_path: Path) -> None:
    cuts, backs = tmp_path / "cuts", tmp_path / "backs"
    cuts.mkdir()
    with pytest.raises(InvalidInput, match="backs is not a folder"):
        CompositeSource(cuts, backs, NETWORK, RECIPE)
    backs.mkdir()
    with pytest.raises(InvalidInput, match="has no picture"):
        CompositeSource(cuts, backs, NETWORK, RECIPE)
    Image.fromarray(noise(120, 90, 1)).save(backs / "back.jpg")
    save_cutout(cuts / "drawing.png", drawing=True)
    with pytest.raises(InvalidInput, match="no photographic cut-out"):
        CompositeSource(cuts, backs, NETWORK, RECIPE)
    save_cutout(cuts / "box.png")
    source = CompositeSource(cuts, backs, NETWORK, RECIPE)
    sample = source.sample(0, (96, 64), STAGE, np.random.default_rng(0))
    assert sample.image.shape == (64, 96, 3)
    assert sample.depth is not None
    assert len(sample.masks) == 3
    assert all(mask.any() for mask in sample.masks)
    free = source.sample(0, None, STAGE, np.random.default_rng(0))
    assert free.image.shape[1] == 96
    assert free.image.shape[0] % NETWORK.patch == 0


# -- labelled photographs ---------------------------------------------------------------------


def labelled(folder: Path, name: str = "a.jpg") -> Path:
    """A photograph with two rectangles and their masks; writes and returns the COCO file."""
    image = noise(160, 120, 2) // 4
    masks = []
    for number, box in enumerate(((10, 10, 80, 100), (100, 30, 150, 90)), start=1):
        picture = Image.new("L", (160, 120))
        ImageDraw.Draw(picture).rectangle(box, fill=1)
        mask = np.asarray(picture)
        image[mask > 0] = 70 * number
        masks.append(
            {"id": number, "image_id": 1, "iscrowd": 0, "segmentation": coco_of_mask(mask)}
        )
    Image.fromarray(image).save(folder / name, quality=95)
    images = [{"id": 1, "file_name": name, "width": 160, "height": 120}]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": masks, "categories": []}))
    return path


def test_objects_of_one_photograph_stay_on_their_pixels(tmp_path: Path) -> None:
    config = RECIPE.replace(augment=TrainConfig().augment.__class__(on=False))
    source = AnnotatedSource(coco(labelled(tmp_path)), NETWORK, config)
    assert len(source) == 1
    for seed in range(10):
        sample = source.sample(0, (96, 96), STAGE, np.random.default_rng(seed))
        assert sample.image.shape == (96, 96, 3)
        assert sample.depth is None
        for mask, others in zip(sample.masks, sample.others, strict=True):
            assert not (mask & others).any()
            inside = sample.image[mask].astype(int).mean()
            assert min(abs(inside - 70), abs(inside - 140)) < 12


def test_a_spawned_process_can_have_a_copy(tmp_path: Path) -> None:
    source = AnnotatedSource(coco(labelled(tmp_path)), NETWORK, RECIPE)
    first = source.sample(0, (96, 96), STAGE, np.random.default_rng(0))
    copy = pickle.loads(pickle.dumps(source))
    again = copy.sample(0, (96, 96), STAGE, np.random.default_rng(0))
    assert np.array_equal(again.image, first.image)


# -- mixtures ---------------------------------------------------------------------------------


class Numbered:
    """A source whose samples carry its name."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, *_: object) -> Sample:
        assert not self.length or 0 <= index < self.length
        return Sample(np.zeros((1, 1, 3), np.uint8), None, [], [], self.name)


def test_a_mixture_draws_by_weight_and_keeps_a_step_together() -> None:
    mixture = MixtureSource([(3, Numbered("a", 5)), (1, Numbered("b", 0))], seed=1)
    assert len(mixture) == 0
    rng = np.random.default_rng(0)
    steps = [
        {mixture.sample(64 * step + k, None, STAGE, rng).name for k in range(3)}
        for step in range(400)
    ]
    assert all(len(names) == 1 for names in steps)
    assert 0.68 < sum(names == {"a"} for names in steps) / 400 < 0.82


@pytest.mark.parametrize("weights", [(), (1, 0), (2, -1)])
def test_weights_must_be_positive(weights: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="expected positive numbers"):
        MixtureSource([(w, SceneSource(NETWORK, RECIPE)) for w in weights], seed=0)


# -- reserved pictures ------------------------------------------------------------------------


def test_reserved_pictures_are_refused_by_content_and_by_name(tmp_path: Path) -> None:
    known = Path(ois_export.__file__).parent / "photos" / "coffee.jpg"
    copy = tmp_path / "renamed.jpg"
    copy.write_bytes(known.read_bytes())
    named = tmp_path / "EveningGlow.png"
    Image.fromarray(noise(8, 8, 0)).save(named)
    fine = tmp_path / "mine.png"
    Image.fromarray(noise(8, 8, 1)).save(fine)
    refuse_reserved([fine])
    with pytest.raises(InvalidInput, match=r"renamed.jpg .*EveningGlow.png .*reserved"):
        refuse_reserved([fine, copy, named])
    with pytest.raises(InvalidInput, match=r"astronaut.jpg .by its name.*reserved"):
        AnnotatedSource(coco(labelled(tmp_path, "astronaut.jpg")), NETWORK, RECIPE)
