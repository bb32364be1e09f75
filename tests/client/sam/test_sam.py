"""The same calling code runs with Meta's `SamPredictor` and with `OISPredictor`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ois_client import Client, InvalidClick, InvalidInput, OISModel, OISPredictor
from ois_client.sam.automatic import OISAutomaticMaskGenerator
from ois_runtime.engines.local import open_transport
from support.segment_anything_reference import segment_anything, small_sam
from support.tiny_engines import write_engines

WIDTH, HEIGHT = 130, 90
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(open_transport(str(write_engines(tmp_path_factory.mktemp("e"))))) as client:
        yield client


@pytest.fixture(scope="module")
def sam() -> Any:
    return small_sam()


@pytest.fixture(scope="module", params=["sam", "ois"])
def predictor(request: pytest.FixtureRequest, client: Client, sam: Any) -> Any:
    return OISPredictor(client) if request.param == "ois" else segment_anything().SamPredictor(sam)


@dataclass(frozen=True)
class Form:
    """Type, shape and dtype of an array or tensor."""

    type: type
    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def of(cls, array: Any) -> Form:
        return cls(type(array), tuple(array.shape), array.dtype)


def test_notebook_code_gives_arrays_of_the_same_form(predictor: Any) -> None:
    """Two clicks, the second with the logits of the first, as in SAM's predictor notebook."""
    predictor.set_image(IMAGE)
    assert predictor.is_image_set
    assert predictor.original_size == (HEIGHT, WIDTH)
    masks, scores, logits = predictor.predict(
        point_coords=np.array([[60, 45]]), point_labels=np.array([1]), multimask_output=False
    )
    best = logits[np.argmax(scores), :, :]
    masks, scores, logits = predictor.predict(
        point_coords=np.array([[60, 45], [5, 5]]),
        point_labels=np.array([1, 0]),
        mask_input=best[None, :, :],
        multimask_output=False,
    )
    assert Form.of(masks) == Form(np.ndarray, (1, HEIGHT, WIDTH), np.dtype(bool))
    assert Form.of(scores) == Form(np.ndarray, (1,), np.dtype("float32"))
    assert Form.of(logits) == Form(np.ndarray, (1, 256, 256), np.dtype("float32"))
    large, _, _ = predictor.predict(
        np.array([[60, 45]]), np.array([1]), None, None, False, return_logits=True
    )
    assert Form.of(large) == Form(np.ndarray, (1, HEIGHT, WIDTH), np.dtype("float32"))
    alone, _, _ = predictor.predict(np.array([[60, 45]]), np.array([1]), multimask_output=False)
    np.testing.assert_array_equal(large > predictor.model.mask_threshold, alone)
    predictor.reset_image()
    assert not predictor.is_image_set


def test_batched_code_gives_tensors_of_the_same_form(predictor: Any) -> None:
    predictor.set_image(IMAGE)
    points = torch.tensor([[[60.0, 45]], [[5, 5]], [[WIDTH - 1, HEIGHT - 1]]])
    labels = torch.ones((3, 1), dtype=torch.int64, device=predictor.device)
    moved = predictor.transform.apply_coords_torch(points, IMAGE.shape[:2])
    assert Form.of(moved) == Form(torch.Tensor, (3, 1, 2), torch.float32)
    masks, scores, logits = predictor.predict_torch(moved, labels, multimask_output=False)
    assert Form.of(masks) == Form(torch.Tensor, (3, 1, HEIGHT, WIDTH), torch.bool)
    assert Form.of(scores) == Form(torch.Tensor, (3, 1), torch.float32)
    assert Form.of(logits) == Form(torch.Tensor, (3, 1, 256, 256), torch.float32)
    again, _, _ = predictor.predict_torch(
        moved, labels, mask_input=logits, multimask_output=False, return_logits=True
    )
    assert Form.of(again) == Form(torch.Tensor, (3, 1, HEIGHT, WIDTH), torch.float32)


def test_sam_s_own_mask_generator_runs_with_our_predictor(client: Client, sam: Any) -> None:
    """Meta's code with our predictor finds the same masks as our generator."""
    points = (np.stack(np.meshgrid([0.2, 0.7], [0.3, 0.8]), -1).reshape(-1, 2)).astype(float)
    generator = segment_anything().SamAutomaticMaskGenerator(
        sam,
        points_per_side=None,
        point_grids=[points],
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
    )
    generator.predictor = OISPredictor(client)
    theirs = generator.generate(IMAGE)
    assert len(theirs) == 4
    [ours] = OISAutomaticMaskGenerator(client, points_per_side=1).generate(IMAGE)
    assert set(theirs[0]) <= set(ours)
    assert set(ours) - set(theirs[0]) == {"score"}
    for record in theirs:
        [point] = record["point_coords"]
        mask = client.open(IMAGE).click(*point)
        np.testing.assert_array_equal(record["segmentation"], mask == 1)


@pytest.mark.parametrize(
    "name",
    ["set_image", "predict", "predict_torch", "reset_image", "set_torch_image"],
)
def test_methods_take_sam_s_arguments(name: str) -> None:
    theirs = inspect.signature(getattr(segment_anything().SamPredictor, name)).parameters
    ours = inspect.signature(getattr(OISPredictor, name)).parameters
    assert list(ours) == list(theirs)
    assert [one.default for one in ours.values()] == [one.default for one in theirs.values()]


@pytest.mark.parametrize("make", [lambda client: client, OISModel], ids=["client", "model"])
def test_a_model_takes_the_place_of_sam_s(client: Client, make: Any) -> None:
    model = make(client)
    predictor = OISPredictor(sam_model=model)
    assert predictor.model.mask_threshold == 0
    assert predictor.model.image_format == "RGB"
    assert torch.zeros(1, device=predictor.model.device).device.type == "cpu"
    assert predictor.model.to(device="cuda") is predictor.model.eval() is predictor.model
    predictor.set_image(IMAGE)
    masks, _, _ = predictor.predict(np.array([[60, 45]]), np.array([1]))
    np.testing.assert_array_equal(masks[0], client.open(IMAGE).click(60, 45) == 1)


def test_what_else_sam_s_model_has_is_refused_in_a_sentence(client: Client) -> None:
    model = OISModel(client)
    assert not hasattr(model, "half")
    with pytest.raises(AttributeError, match="runs where the client's address says"):
        _ = model.image_encoder


def test_a_model_opens_its_own_client(tmp_path: Path) -> None:
    model = OISModel(f"local:{write_engines(tmp_path)}")
    with model.client as client:
        assert OISPredictor(model).transform.target_length == client.info.longest


def test_everything_public_in_sam_s_predictor_is_there(client: Client, sam: Any) -> None:
    theirs, ours = segment_anything().SamPredictor(sam), OISPredictor(client)
    for predictor in (theirs, ours):
        predictor.set_image(IMAGE)
    for name in dir(theirs.transform):
        assert (
            name.startswith("_") or hasattr(ours.transform, name) or name == "get_preprocess_shape"
        )
    missing = {name for name in dir(theirs) if not name.startswith("_")} - set(dir(ours))
    # what `get_image_embedding` returns, and what reset_image sets but nothing reads
    assert missing == {"features", "orig_h", "orig_w", "input_h", "input_w"}


# -- only ours -----------------------------------------------------------------------------


@pytest.fixture
def ours(client: Client) -> OISPredictor:
    predictor = OISPredictor(client)
    predictor.set_image(IMAGE)
    return predictor


def test_a_batch_is_its_objects_one_by_one(ours: OISPredictor) -> None:
    """With 40 objects, more than a server accepts in one request."""
    rng = np.random.default_rng(1)
    points = rng.uniform([0, 0], [WIDTH - 1, HEIGHT - 1], (40, 2, 2)).astype(np.float32)
    points[0] = [[0, 0], [WIDTH - 1, HEIGHT - 1]]
    labels = np.tile([1, 0], (40, 1))
    labels[3] = [1, -1]
    moved = ours.transform.apply_coords_torch(torch.from_numpy(points), (HEIGHT, WIDTH))
    masks, scores, logits = ours.predict_torch(moved, torch.from_numpy(labels))
    _, _, second = ours.predict_torch(moved, torch.from_numpy(labels), mask_input=logits)
    for row in range(40):
        alone = ours.predict(points[row], labels[row])
        np.testing.assert_allclose(logits[row].numpy(), alone[2], atol=2e-3)
        np.testing.assert_allclose(scores[row].numpy(), alone[1], atol=1e-3)
        assert (masks[row].numpy() != alone[0]).mean() < 0.01  # float32 rounding
        refined = ours.predict(points[row], labels[row], mask_input=alone[2])
        np.testing.assert_allclose(second[row].numpy(), refined[2], atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"boxes": torch.zeros(1, 4)}, InvalidInput, "expected clicks"),
        ({"point_coords": None}, InvalidInput, "at least one click"),
        ({"point_coords": [[[1, 2]]]}, InvalidInput, "expected a torch.Tensor"),
        ({"point_coords": torch.zeros(1, 2)}, InvalidClick, r"shape \(1, 2\)"),
        ({"point_coords": torch.full((1, 1, 2), 999.0)}, InvalidClick, "outside"),
        ({"point_coords": torch.full((1, 1, 2), torch.nan)}, InvalidClick, "finite"),
        ({"point_coords": torch.zeros(0, 1, 2)}, InvalidClick, "labels of shape"),
        ({"point_labels": torch.ones(2, 1)}, InvalidClick, "labels of shape"),
        ({"mask_input": torch.zeros(2, 1, 256, 256)}, InvalidInput, "with B = 1"),
        ({"mask_input": torch.zeros(1, 1, 64, 64)}, InvalidInput, "low_res_logits"),
    ],
)
def test_wrong_batches_are_explained(
    ours: OISPredictor, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    right = {"point_coords": torch.zeros(1, 1, 2), "point_labels": torch.ones(1, 1)}
    with pytest.raises(kind, match=message):
        ours.predict_torch(**{**right, **arguments})


def test_unsupported_features_of_sam_are_refused_with_an_explanation(ours: OISPredictor) -> None:
    with pytest.raises(InvalidInput, match="set_image with the original"):
        ours.set_torch_image(torch.zeros(1, 3, 64, 64), (64, 64))
    for resize in (ours.transform.apply_image, ours.transform.apply_image_torch):
        with pytest.raises(InvalidInput, match="set_image with the original"):
            resize(IMAGE)
    for boxes in (ours.transform.apply_boxes, ours.transform.apply_boxes_torch):
        with pytest.raises(InvalidInput, match="expected clicks"):
            boxes(np.zeros((1, 4)), (HEIGHT, WIDTH))
    with pytest.raises(InvalidInput, match="stay on the server"):
        ours.get_image_embedding()
    ours.reset_image()
    with pytest.raises(InvalidInput, match="set_image"):
        ours.predict_torch(torch.zeros(1, 1, 2), torch.ones(1, 1))


def test_points_move_to_the_input_and_back(ours: OISPredictor) -> None:
    corners = np.array([[0, 0], [WIDTH - 1, HEIGHT - 1]], dtype=np.float64)
    moved = ours.transform.apply_coords(corners, (HEIGHT, WIDTH))
    height, width = ours.input_size
    assert ours.transform.target_length == max(height, width)
    expected = [[0.5 * width / WIDTH - 0.5, 0.5 * height / HEIGHT - 0.5]]
    np.testing.assert_allclose(moved[:1], expected, atol=1e-5)
    np.testing.assert_allclose(moved[1], np.array([width, height]) - 1 - expected[0], atol=1e-4)
