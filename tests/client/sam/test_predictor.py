"""Code written for SAM's predictor runs with `OISPredictor`; differences raise clear errors."""

import numpy as np
import pytest

from ois_client import Client, InvalidClick, InvalidImage, InvalidInput, OISPredictor
from ois_client.contract.geometry import Geometry
from ois_client.sam.logits import enlarge
from ois_runtime.engines.pixels import postprocess
from support.tiny_engines import LONGEST, write_engines

WIDTH, HEIGHT = 120, 90
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
POINTS, LABELS = np.array([[60, 45]]), np.array([1])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = write_engines(tmp_path_factory.mktemp("engines"))
    with Client(f"local:{folder}") as client:
        yield client


@pytest.fixture
def predictor(client):
    predictor = OISPredictor(client)
    predictor.set_image(IMAGE)
    return predictor


def annotate(predictor, image, clicks):
    """As in SAM's notebooks: choose the best mask, refine it with its logits."""
    predictor.set_image(image)
    logits = None
    for count in range(1, len(clicks) + 1):
        masks, scores, low_res = predictor.predict(
            point_coords=np.array([click[:2] for click in clicks[:count]]),
            point_labels=np.array([click[2] for click in clicks[:count]]),
            mask_input=None if logits is None else logits[None, :, :],
            multimask_output=logits is None,
        )
        logits = low_res[np.argmax(scores), :, :]
    return masks[np.argmax(scores)], scores, low_res


def test_code_written_for_sam_runs_unchanged(client):
    mask, scores, low_res = annotate(OISPredictor(client), IMAGE, [(60, 45, 1), (5, 5, 0)])
    assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), bool)
    assert mask[45, 60]
    assert not mask[5, 5]
    assert (scores.shape, scores.dtype) == ((1,), np.float32)
    assert (low_res.shape, low_res.dtype) == ((1, 256, 256), np.float32)


def test_a_prediction_is_the_session_s_first_click(client, predictor):
    masks, _, _ = predictor.predict(POINTS, LABELS)
    session = client.open(IMAGE)
    np.testing.assert_array_equal(masks[0], session.click(60, 45) == 1)
    first = session.coverage()
    assert first.any()
    lists, _, _ = predictor.predict([[60.0, 45.0]], [True], None, None, False)
    np.testing.assert_array_equal(lists, masks)


def test_the_previous_mask_reaches_the_network_as_coverage(predictor):
    """The tiny engines enlarge their disk by the mean coverage of the previous mask."""
    alone, _, low_res = predictor.predict(POINTS, LABELS)
    grown, _, _ = predictor.predict(POINTS, LABELS, mask_input=low_res)
    full, _, _ = predictor.predict(POINTS, LABELS, mask_input=np.full((256, 256), 1.0))
    none, _, _ = predictor.predict(POINTS, LABELS, mask_input=np.full((1, 256, 256), -1.0))
    np.testing.assert_array_equal(none, alone)
    assert alone.sum() < grown.sum() < full.sum()
    again, _, _ = predictor.predict(POINTS, LABELS)
    np.testing.assert_array_equal(again, alone)


def test_logits_scores_and_masks_agree(predictor):
    masks, scores, low_res = predictor.predict(POINTS, LABELS)
    logits, same, _ = predictor.predict(POINTS, LABELS, return_logits=True)
    assert (logits.shape, logits.dtype) == ((1, HEIGHT, WIDTH), np.float32)
    np.testing.assert_array_equal(logits > 0, masks)
    np.testing.assert_array_equal(same, scores)
    assert 0.5 < scores[0] < 1
    share = (low_res > 0).mean()
    assert abs(share - masks.mean()) < 0.01
    # A click whose mask is empty: radius 12 - 2 * 6 negative clicks is 0.
    points = np.array([[60, 45]] + [[5, 5 + n] for n in range(6)])
    empty, score, _ = predictor.predict(points, np.array([1] + [0] * 6))
    assert not empty.any()
    assert score[0] == 0


def test_logits_are_enlarged_as_masks_are():
    rng = np.random.default_rng(1)
    for width, height in ((120, 90), (31, 77), (500, 200)):
        fit = Geometry.fit(width, height, longest=LONGEST)
        logits = rng.normal(size=(fit.network_height, fit.network_width)).astype(np.float32)
        mask = postprocess(logits[None], fit)[0]
        np.testing.assert_array_equal(enlarge(logits, height, width) > 0, mask == 1)


def test_colours_and_sizes(predictor):
    assert predictor.is_image_set
    assert predictor.original_size == (HEIGHT, WIDTH)
    assert predictor.input_size == (42, 56)
    digest = predictor._open().picture.digest
    predictor.set_image(IMAGE[..., ::-1], image_format="BGR")
    assert predictor._open().picture.digest == digest
    with pytest.raises(InvalidInput, match="'RGB' or 'BGR'"):
        predictor.set_image(IMAGE, image_format="HSV")
    for wrong in (IMAGE[..., :2], IMAGE.astype(float), "photo.jpg"):
        with pytest.raises(InvalidImage):
            predictor.set_image(wrong)
        assert not predictor.is_image_set
    predictor.set_image(IMAGE)
    predictor.reset_image()
    assert not predictor.is_image_set
    for call in (lambda: predictor.predict(POINTS, LABELS), lambda: predictor.original_size):
        with pytest.raises(InvalidInput, match="set_image"):
            call()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"box": [0, 0, 5, 5]}, InvalidInput, "expected clicks"),
        ({}, InvalidInput, "at least one click"),
        ({"point_coords": POINTS}, InvalidInput, "no point_labels"),
        ({"mask_input": np.zeros((1, 256, 256), np.float32)}, InvalidInput, "A mask alone"),
        ({"point_coords": POINTS[0], "point_labels": LABELS}, InvalidClick, r"shape \(2,\)"),
        ({"point_coords": POINTS, "point_labels": [1, 0]}, InvalidClick, "labels of shape"),
        ({"point_coords": POINTS, "point_labels": [2]}, InvalidClick, "Boxes are not prompts"),
        ({"point_coords": [[1, 2], [3]], "point_labels": [1, 1]}, InvalidClick, "not an array"),
        ({"point_coords": [[120, 3]], "point_labels": [1]}, InvalidClick, "outside"),
        ({"point_coords": [[np.nan, 3]], "point_labels": [1]}, InvalidClick, "finite"),
        ({"point_coords": [["a", "b"]], "point_labels": [1]}, InvalidClick, "numbers"),
        ({"point_coords": POINTS, "point_labels": [-1]}, InvalidInput, "no click"),
    ],
)
def test_wrong_arguments_are_explained(predictor, arguments, kind, message):
    with pytest.raises(kind, match=message):
        predictor.predict(**arguments)


@pytest.mark.parametrize(
    "mask", [np.zeros((1, 64, 64), np.float32), np.zeros((256, 256), np.uint8), [[1.0]]]
)
def test_a_mask_of_another_form_is_refused(predictor, mask):
    with pytest.raises(InvalidInput, match="low_res_logits of an earlier predict"):
        predictor.predict(POINTS, LABELS, mask_input=mask)


def test_padding_labels_are_ignored(predictor):
    points, labels = np.array([[60, 45], [0, 0]]), np.array([1, -1])
    padded = predictor.predict(points, labels)[0]
    np.testing.assert_array_equal(padded, predictor.predict(POINTS, LABELS)[0])


def test_there_is_no_embedding_and_the_error_says_why(predictor):
    with pytest.raises(InvalidInput, match="stay on the server"):
        predictor.get_image_embedding()


def test_an_image_the_server_forgot_is_sent_again(client, predictor):
    before = predictor.predict(POINTS, LABELS)[0]
    transport = client._transport
    transport._segmenter._store.clear()
    np.testing.assert_array_equal(predictor.predict(POINTS, LABELS)[0], before)


def test_predicting_does_not_add_clicks_to_the_session(predictor):
    predictor.predict(POINTS, LABELS)
    assert predictor._open().clicks() == ()
