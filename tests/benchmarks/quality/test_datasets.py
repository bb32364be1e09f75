"""The data sets for quality give the right objects at their own size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_benchmarks.quality.datasets import (
    open_dataset,
    photographs,
    scenes_fingerprint,
    with_present_fingerprint,
)
from ois_benchmarks.quality.records import read_log
from ois_benchmarks.quality.result import check_comparable
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import coco_of_mask
from ois_network.training.data.collections import SkippedPair
from ois_network.training.evaluate import held_out
from ois_network.training.scenes.textures import Texture


def write_pairs(root: Path, count: int, size: tuple[int, int] = (12, 8)) -> None:
    for folder in ("img", "gt"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    width, height = size
    for number in range(count):
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[2:5, number : number + 3] = 9
        Image.fromarray(np.full((height, width, 3), number, dtype=np.uint8)).save(
            root / "img" / f"{number:02d}.png"
        )
        Image.fromarray(mask).save(root / "gt" / f"{number:02d}.png")


def test_scenes_are_the_held_out_ones_at_their_own_size() -> None:
    dataset = open_dataset("scenes:3")
    items = list(dataset.items())
    assert [item.name for item in items] == ["scene-00000", "scene-00001", "scene-00002"]
    targets = [item.load() for item in items]
    for target, (scene, chosen) in zip(targets, held_out(3), strict=True):
        assert np.array_equal(target.image, scene.image)
        assert np.array_equal(target.mask, scene.instances == chosen)
        assert target.mask.any()
    assert len({target.mask.shape for target in targets}) > 1


def test_the_default_is_200_scenes() -> None:
    assert open_dataset("scenes").count == 200
    assert open_dataset("scenes", limit=7).describe() == open_dataset("scenes:7").describe()


def test_committed_results_on_these_scenes_can_still_be_compared_with() -> None:
    """The fingerprint of some is one of an earlier version, which drew the same pixels."""
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    paths = list(results.glob("quality-scenes100-*.jsonl"))
    assert paths
    for path in paths:
        check_comparable(open_dataset("scenes:100"), 20, read_log(path))


def test_an_unknown_fingerprint_stays_as_it_is() -> None:
    for described in ({"fingerprint": "3:abc"}, {"fingerprint": "abc"}, {"name": "d"}):
        assert with_present_fingerprint(described) == described


def test_scenes_drawn_otherwise_have_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_dataset("scenes:3").fingerprint
    paint = Texture.paint
    monkeypatch.setattr(Texture, "paint", lambda *arguments: paint(*arguments) + 1)
    scenes_fingerprint.cache_clear()
    changed = open_dataset("scenes:3").fingerprint
    scenes_fingerprint.cache_clear()
    assert changed != before


def test_davis_and_folders_read_the_same_pairs(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    davis = open_dataset(f"davis:{tmp_path}")
    folders = open_dataset(f"folders:{tmp_path / 'img'},{tmp_path / 'gt'}")
    assert (davis.label, davis.count) == ("DAVIS, 3 frames", 3)  # DAVIS345 has 345
    assert davis.fingerprint == folders.fingerprint
    item = list(davis.items())[1]
    assert item.name == "01"
    assert item.load().image == tmp_path / "img" / "01.png"
    assert item.load().mask.sum() == 9


def test_a_limit_is_spread_over_the_whole_collection(tmp_path: Path) -> None:
    write_pairs(tmp_path, 9)
    dataset = open_dataset(f"davis:{tmp_path}", limit=3)
    assert [item.name for item in dataset.items()] == ["00", "03", "06"]
    assert (dataset.count, dataset.label) == (3, "DAVIS, 9 frames, 3 of 9")
    assert open_dataset(f"davis:{tmp_path}", limit=99).count == 9


def test_another_file_under_the_same_name_changes_the_fingerprint(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)
    before = open_dataset(f"davis:{tmp_path}").fingerprint
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "img" / "01.png")
    assert open_dataset(f"davis:{tmp_path}").fingerprint != before


def test_an_unusable_pair_gives_the_reason_when_it_is_loaded(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)
    Image.new("L", (12, 8)).save(tmp_path / "gt" / "00.png")
    (tmp_path / "gt" / "lonely.png").write_bytes((tmp_path / "gt" / "01.png").read_bytes())
    dataset = open_dataset(f"davis:{tmp_path}")
    assert dataset.lost == {"mask without image": 1}
    with pytest.raises(SkippedPair, match="marks no object"):
        next(dataset.items()).load()


def test_missing_parts_of_hqseg44k_are_refused_or_counted(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 2)
    for name, folder in (("img", "im"), ("gt", "gt")):
        (tmp_path / "DIS5K" / "DIS-VD").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pairs" / name).rename(tmp_path / "DIS5K" / "DIS-VD" / folder)
    for path in (tmp_path / "DIS5K" / "DIS-VD" / "im").iterdir():
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(InvalidInput, match="COIFT"):
        open_dataset(f"hqseg44k:{tmp_path}")
    dataset = open_dataset(f"hqseg44k:{tmp_path}", partial=True)
    assert (dataset.count, dataset.lost) == (2, {"missing folder": 6})


def write_photographs(folder: Path, objects: dict[str, list[str]]) -> Path:
    """A COCO file of photographs with named objects: a row of pixels for each."""
    folder.mkdir()
    images, annotations = [], []
    for number, (file, names) in enumerate(objects.items()):
        Image.new("RGB", (12, 8), (number, 0, 0)).save(folder / file)
        images.append({"id": number, "file_name": file, "width": 12, "height": 8})
        for row, name in enumerate(names):
            mask = np.zeros((8, 12), dtype=np.uint8)
            mask[row, 2:7] = 1
            annotations.append({
                "id": len(annotations), "image_id": number, "name": name,
                "segmentation": coco_of_mask(mask), "bbox": [2, row, 5, 1], "area": 5,
            })  # fmt: skip
    document = {"images": images, "annotations": annotations}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def test_photographs_have_several_named_objects(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "p", {"a.jpg": ["dog", "cup"], "b.jpg": ["dog"]})
    dataset = photographs(folder=folder)
    items = list(dataset.items())
    assert [item.name for item in items] == ["a.jpg:dog", "a.jpg:cup", "b.jpg:dog"]
    assert [item.picture for item in items] == ["a.jpg", "a.jpg", "b.jpg"]
    assert (dataset.label, dataset.slug, dataset.count) == ("photographs", "photos", 3)
    target = items[1].load()
    assert target.image == folder / "a.jpg"
    assert np.argwhere(target.mask)[0].tolist() == [1, 2]
    assert photographs(2, folder).label == "photographs, 2 of 3"
    (folder / "b.jpg").unlink()
    with pytest.raises(InvalidInput, match=r"incomplete.*missing image.*install"):
        photographs(folder=folder)


def test_any_coco_file_is_a_data_set(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "p", {"a.jpg": ["dog", "dog", "", "cup"]})
    names = [item.name for item in open_dataset(f"coco:{folder / 'annotations.json'}").items()]
    # A name that two objects share tells neither of them apart.
    assert names == ["a.jpg, annotation 0", "a.jpg, annotation 1", "a.jpg, annotation 2",
        "a.jpg:cup"]  # fmt: skip
    (folder / "annotations.json").rename(tmp_path / "masks.json")
    dataset = open_dataset(f"coco:{tmp_path / 'masks.json'},{folder}", limit=2)
    assert (dataset.label, dataset.count) == ("COCO masks.json, 2 of 4", 2)
    with pytest.raises(InvalidInput, match="cannot read"):
        open_dataset("coco:nothing.json")


def test_the_photographs_can_all_be_measured() -> None:
    dataset = open_dataset("photos")
    items = list(dataset.items())
    assert len({item.name for item in items}) == dataset.count
    assert open_dataset("photos:7", limit=5).count == 5
    for item in items[:: max(1, len(items) // 5)]:
        assert item.load().mask.any()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "scene",
        "scenes:0",
        "scenes:-1",
        "scenes:",
        "davis",
        "hqseg44k:",
        "folders:a",
        "photos:0",
        "photos:x",
        "coco:",
    ],
)
def test_an_unknown_data_set_is_rejected(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected scenes"):
        open_dataset(text)
