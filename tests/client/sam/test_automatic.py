"""Masks of everything: one click per grid point, N objects per request, no duplicates."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from ois_client import (
    ClickReply,
    ClickRequest,
    Client,
    InvalidImage,
    InvalidInput,
    OISModel,
    Picture,
)
from ois_client.sam.automatic import OISAutomaticMaskGenerator, distinct_boxes, point_grid
from ois_client.sam.logits import mean_probability, stability
from ois_runtime.engines.local import LocalTransport, open_transport
from support.segment_anything_reference import segment_anything
from support.tiny_engines import write_engines

WIDTH, HEIGHT = 160, 120
IMAGE = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
ALL = {"box_nms_thresh": 1.0}


class Noting:
    """A local transport that records how many objects each click had."""

    def __init__(self, inner: LocalTransport) -> None:
        self.objects: list[int] = []
        self._inner = inner
        self.info, self.encode, self.close, self.stats = (
            inner.info,
            inner.encode,
            inner.close,
            inner.stats,
        )

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        self.objects.append(len(request.points))
        return self._inner.click(request, picture)


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noting]:
    transport = Noting(open_transport(str(write_engines(tmp_path_factory.mktemp("engines")))))
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def client(transport: Noting) -> Client:
    return Client(transport)


def generate(client: Client, **options: Any) -> list[dict[str, Any]]:
    return OISAutomaticMaskGenerator(client, **options).generate(IMAGE)


def test_the_grid_is_256_clicks_in_batches_on_an_image_encoded_once(
    client: Client, transport: Noting
) -> None:
    transport.objects.clear()
    encoded, steps = transport.stats().misses, []
    generator = OISAutomaticMaskGenerator(client)
    records = generator.generate(IMAGE // 2, lambda *step: steps.append(step))
    assert transport.objects == [16] * 16
    assert transport.stats().misses - encoded == 1
    assert steps == [(16 * n, 256) for n in range(1, 17)]
    assert 1 < len(records) < 256  # neighbours are duplicates
    transport.objects.clear()
    generate(client, points_per_side=5, points_per_batch=7)
    assert transport.objects == [7, 7, 7, 4]


def test_every_record_equals_a_click_at_its_point(client: Client) -> None:
    records = generate(client, points_per_side=4, **ALL)
    assert len(records) == 16
    scores = [record["score"] for record in records]
    assert scores == sorted(scores, reverse=True)
    for record in records:
        [[x, y]] = record["point_coords"]
        session = client.open(IMAGE)
        mask = session.click(x, y, want_logits=True)
        np.testing.assert_array_equal(record["segmentation"], mask == 1)
        assert record["segmentation"].dtype == bool
        assert record["area"] == mask.sum()
        box = coco.toBbox(coco.encode(np.asfortranarray(mask))).tolist()
        assert record["bbox"] == box
        logits = session.last_reply.logits
        assert record["score"] == pytest.approx(mean_probability(logits)[0])
        assert record["stability_score"] == pytest.approx(stability(logits, 1.0)[0])
        assert record["crop_box"] == [0, 0, WIDTH, HEIGHT]
        assert record["predicted_iou"] == record["score"]


def test_segmentations_have_sam_s_three_forms(client: Client) -> None:
    binary = generate(client, points_per_side=3, **ALL)
    for mode in ("uncompressed_rle", "coco_rle"):
        records = generate(client, points_per_side=3, output_mode=mode, **ALL)
        assert len(records) == len(binary)
        for record, twin in zip(records, binary, strict=True):
            rle = record["segmentation"]
            assert isinstance(rle["counts"], list if mode == "uncompressed_rle" else str)
            if mode == "uncompressed_rle":
                rle = coco.frPyObjects(rle, *rle["size"])
            np.testing.assert_array_equal(coco.decode(rle), twin["segmentation"])


def test_thresholds_drop_masks(client: Client) -> None:
    every = generate(client, points_per_side=6, **ALL)
    middle = float(np.median([record["stability_score"] for record in every]))
    stable = generate(client, points_per_side=6, stability_score_thresh=middle, **ALL)
    assert [r["point_coords"] for r in stable] == [
        r["point_coords"] for r in every if r["stability_score"] >= middle
    ]
    assert 0 < len(stable) < len(every)
    middle = float(np.median([record["score"] for record in every]))
    sure = generate(client, points_per_side=6, score_thresh=middle, **ALL)
    assert [r["score"] for r in sure] == [r["score"] for r in every if r["score"] >= middle]
    assert generate(client, points_per_side=2, stability_score_offset=100.0,
                    stability_score_thresh=1.0) == []  # fmt: skip


def test_stability_is_the_iou_at_two_thresholds() -> None:
    logits = np.array([[[3.0, 0.5, -0.5, -3.0]], [[-3.0, -3.0, -3.0, -3.0]]], dtype=np.float32)
    assert stability(logits, 1.0).tolist() == pytest.approx([1 / 3, 0.0])
    assert stability(logits, 0.0).tolist() == [1.0, 0.0]
    assert mean_probability(logits)[1] == 0
    expected = (1 / (1 + np.exp(-3.0)) + 1 / (1 + np.exp(-0.5))) / 2
    assert mean_probability(logits)[0] == pytest.approx(expected)


def test_points_are_the_centres_of_equal_cells() -> None:
    assert point_grid(2, 8, 4).tolist() == [[1.5, 0.5], [5.5, 0.5], [1.5, 2.5], [5.5, 2.5]]
    assert point_grid(1, 1, 1).tolist() == [[0, 0]]
    many = point_grid(16, 3, 2)
    assert (many.min(), many[:, 0].max(), many[:, 1].max()) == (0, 2, 1)


def test_the_first_of_overlapping_boxes_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [5, 0, 10, 10], [40, 40, 2, 2]], float)
    assert distinct_boxes(boxes, 0.7) == [0, 2, 3]  # IoU 9/11, then 5/15
    assert distinct_boxes(boxes, 1.0) == [0, 1, 2, 3]
    assert distinct_boxes(boxes, 0.0) == [0, 3]
    assert distinct_boxes(np.empty((0, 4)), 0.7) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": 0}, "points_per_side=0"),
        ({"points_per_side": None}, "points_per_side=None; expected a whole number"),
        ({"points_per_side": 1.5}, "points_per_side=1.5; expected a whole number"),
        ({"points_per_batch": -1}, "points_per_batch=-1"),
        ({"score_thresh": 1.5}, "score_thresh=1.5"),
        ({"stability_score_thresh": float("nan")}, "expected 0 to 1"),
        ({"stability_score_offset": -1.0}, "expected 0 or more"),
        ({"output_mode": "polygon"}, "binary_mask, uncompressed_rle, coco_rle"),
        ({"pred_iou_thresh": 0.88}, "pred_iou_thresh=0.88; expected 0.*Use score_thresh"),
        ({"crop_n_layers": 1}, "crop_n_layers=1; expected 0.*Raise points_per_side"),
        ({"point_grids": [np.zeros((1, 2))]}, "point_grids=.*expected None.*regular grids"),
        ({"min_mask_region_area": 100}, "min_mask_region_area=100; expected 0.*not removed"),
    ],
)
def test_wrong_options_are_explained(client: Client, options: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        OISAutomaticMaskGenerator(client, **options)


def test_sam_s_keywords_are_taken_in_sam_s_order(client: Client) -> None:
    theirs = inspect.signature(segment_anything().SamAutomaticMaskGenerator).parameters
    ours = inspect.signature(OISAutomaticMaskGenerator).parameters
    positional = [one.name for one in ours.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)
    plain = generate(client, points_per_side=3)
    # SAM's neutral values, and values that have no effect in SAM either when there are no crops
    neutral = OISAutomaticMaskGenerator(
        model=client,
        points_per_side=3,
        pred_iou_thresh=0.0,
        crop_n_layers=0,
        crop_nms_thresh=0.2,
        crop_overlap_ratio=0.5,
        crop_n_points_downscale_factor=2,
        point_grids=None,
        min_mask_region_area=0,
    ).generate(IMAGE)
    ordered = OISAutomaticMaskGenerator(client, 3, 64, 0.0, 0.0).generate(IMAGE)
    for records in (neutral, ordered):
        assert [one["point_coords"] for one in records] == [one["point_coords"] for one in plain]


@pytest.mark.parametrize("as_rle", [False, True])
def test_a_script_for_sam_writes_its_records(client: Client, tmp_path: Path, as_rle: bool) -> None:
    """What segment-anything's `scripts/amg.py` does with a model, in both of its modes."""
    sam = OISModel(client)
    sam.to(device="cuda")
    mode = "coco_rle" if as_rle else "binary_mask"
    records = OISAutomaticMaskGenerator(sam, output_mode=mode, points_per_side=3).generate(IMAGE)
    if as_rle:
        (tmp_path / "photo.json").write_text(json.dumps(records))
        read = json.loads((tmp_path / "photo.json").read_text())
        assert [coco.area(one["segmentation"]) for one in read] == [one["area"] for one in records]
        return
    with (tmp_path / "metadata.csv").open("w") as file:
        table = csv.writer(file)
        for number, one in enumerate(records):
            Image.fromarray((one["segmentation"] * 255).astype(np.uint8)).save(
                tmp_path / f"{number}.png"
            )
            quality = one["predicted_iou"], one["stability_score"]
            table.writerow(
                [number, one["area"], *one["bbox"], *one["point_coords"][0], *quality]
                + one["crop_box"]
            )
    rows = list(csv.reader((tmp_path / "metadata.csv").read_text().splitlines()))
    assert {len(row) for row in rows} == {14}  # the columns of the script's header
    for row in rows:
        pixels = np.asarray(Image.open(tmp_path / f"{row[0]}.png"))
        assert (pixels == 255).sum() == int(row[1])


def test_an_image_of_one_pixel_works_and_a_missing_file_is_refused(client: Client) -> None:
    tiny = np.full((1, 1, 3), 7, dtype=np.uint8)
    [record] = OISAutomaticMaskGenerator(client).generate(tiny)
    assert record["segmentation"].tolist() == [[True]]
    assert record["bbox"] == [0, 0, 1, 1]
    with pytest.raises(InvalidImage):
        OISAutomaticMaskGenerator(client).generate(b"text")
