"""A box stands for clicks where a caller asks for that, and is refused otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ois_client import Client, InvalidInput, OISPredictor
from ois_client.sam.boxes import clicks_of_box
from support.tiny_engines import write_engines

WIDTH, HEIGHT = 120, 90
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
BOX = (40, 30, 80, 60)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(f"local:{write_engines(tmp_path_factory.mktemp('engines'))}") as client:
        yield client


@pytest.fixture
def predictor(client: Client) -> OISPredictor:
    predictor = OISPredictor(client, boxes="clicks")
    predictor.set_image(IMAGE)
    return predictor


def test_the_centre_is_positive_and_the_corners_outside_are_negative() -> None:
    points, labels = clicks_of_box(BOX, WIDTH, HEIGHT)
    assert labels.tolist() == [1, 0, 0, 0, 0]
    assert points[0].tolist() == [60, 45]
    # 5 % of 40 pixels are two; of 30 they are less than the least distance, two
    assert points[1:].tolist() == [[38, 28], [82, 28], [38, 62], [82, 62]]


def test_corners_outside_the_image_are_no_clicks() -> None:
    points, labels = clicks_of_box((0, 0, 200, 50), WIDTH, HEIGHT)
    assert labels.tolist() == [1, -1, -1, -1, -1]
    assert points[0].tolist() == [59.5, 25]
    assert clicks_of_box((0, 20, 50, 50), WIDTH, HEIGHT)[1].tolist() == [1, -1, 0, -1, 0]


@pytest.mark.parametrize(
    "box", [(1, 2, 3), (5, 5, 5, 9), (9, 9, 1, 1), (0, 0, np.nan, 9), "box", (200, 0, 300, 9)]
)
def test_what_is_no_box_is_refused(box: object) -> None:
    with pytest.raises(InvalidInput, match="got the box"):
        clicks_of_box(box, WIDTH, HEIGHT)  # type: ignore[arg-type]


def test_a_prediction_is_that_of_the_clicks(predictor: OISPredictor) -> None:
    clicks = clicks_of_box(BOX, WIDTH, HEIGHT)
    expected = predictor.predict(*clicks)
    for box in (BOX, np.array([BOX])):  # SAM's notebooks have both forms
        for found, wanted in zip(predictor.predict(box=box), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    with_click, _, _ = predictor.predict(np.array([[50, 40]]), np.array([1]), box=BOX)
    points, labels = np.vstack([clicks[0], [[50, 40]]]), np.append(clicks[1], 1)
    np.testing.assert_array_equal(with_click, predictor.predict(points, labels)[0])
    assert (with_click != expected[0]).any()


def test_boxes_of_several_objects(predictor: OISPredictor) -> None:
    torch = pytest.importorskip("torch")
    given = torch.tensor([BOX, (0, 0, 30, 40)], dtype=torch.float32)
    boxes = predictor.transform.apply_boxes_torch(given, predictor.original_size)
    masks, scores, _ = predictor.predict_torch(None, None, boxes)
    assert scores.shape == (2, 1)
    for mask, box in zip(masks.numpy(), given.numpy(), strict=True):
        np.testing.assert_array_equal(mask, predictor.predict(box=box)[0])
    with pytest.raises(InvalidInput, match="expected \\(B, 4\\) with B = 1"):
        predictor.predict_torch(torch.zeros(1, 1, 2), torch.ones(1, 1), boxes)


def test_without_the_option_a_box_is_refused(client: Client) -> None:
    plain = OISPredictor(client)
    plain.set_image(IMAGE)
    for call in (
        lambda: plain.predict(box=BOX),
        lambda: plain.predict_torch(None, None, np.array([BOX])),
        lambda: plain.transform.apply_boxes(np.array([BOX]), (HEIGHT, WIDTH)),
    ):
        with pytest.raises(InvalidInput, match="box"):
            call()
    with pytest.raises(InvalidInput, match="expected 'refuse' or 'clicks'"):
        OISPredictor(client, boxes="yes")  # type: ignore[arg-type]
