"""`OISPredictor`: the interface of `SamPredictor` on top of a session."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ois_client.contract.clicks import pack_clicks, unpack_clicks
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import InvalidClick, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import load_image
from ois_client.contract.transport import ClickRequest
from ois_client.sam.boxes import clicks_of_box
from ois_client.sam.frame import (
    NO_BOXES,
    NO_RESIZING,
    ClickTransform,
    array_of,
    points_of_input,
    tensor_like,
)
from ois_client.sam.logits import enlarge, mean_probability
from ois_client.sam.model import OISModel, client_of
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session

#: Side of `low_res_logits` and `mask_input`, as in SAM.
LOW_RES = 256

#: Most objects per request of `predict_torch`; servers accept 32 by default.
OBJECTS_PER_REQUEST = 16


class OISPredictor:
    """Replaces `SamPredictor` in code written for it.

        predictor = OISPredictor(Client("grpc://host:8001"))
        predictor.set_image(image)
        masks, scores, low_res_logits = predictor.predict(point_coords, point_labels)

    The network differs from SAM, and so does this class:

    - C, the number of masks, is always 1. `multimask_output` has no effect.
    - Boxes are not prompts of the network: `box` raises `InvalidInput`, unless `boxes="clicks"`,
      with which a box stands for clicks (`ois_client/sam/boxes.py`). Clicks are required, because
      a mask alone is not a prompt.
    - `scores` is the mean probability of the mask's pixels, 0 for an empty mask. It can compare
      masks of one object, but it is not an estimate of the IoU.
    - `low_res_logits` cover the whole image stretched to 256 x 256; SAM's cover the image padded
      to a square. As `mask_input` they tell which patches the previous mask covers. Thin parts may
      be lost at 256 x 256. A `Session` keeps them and sends a hundredth of the data.
    - Image features stay on the server: `get_image_embedding` and `set_torch_image` raise.

    As in SAM, the result of `predict` depends only on its arguments. Not thread-safe.
    """

    #: Results are computed here. `predict_torch` returns tensors on the device of its arguments.
    device = OISModel.device

    def __init__(
        self, sam_model: Client | OISModel, *, boxes: Literal["refuse", "clicks"] = "refuse"
    ) -> None:
        """boxes: "clicks" takes a box as a click on its centre and negative clicks outside its
        corners, before the clicks that are given. Raises `InvalidInput` for another value."""
        if boxes not in ("refuse", "clicks"):
            raise InvalidInput(f"got boxes={boxes!r}; expected 'refuse' or 'clicks'")
        self._boxes = boxes == "clicks"
        self._client = client_of(sam_model)
        self._session: Session | None = None
        #: What code around SAM's predictor reads of its network.
        self.model = OISModel(self._client)
        self.transform = ClickTransform(self._client.info, boxes=self._boxes)

    # -- image -----------------------------------------------------------------------------

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """image: (H, W, 3) uint8, 0..255, channels in the order of `image_format`, RGB or BGR.

        The image is sent and encoded. Raises `InvalidImage` for another shape or type, and
        `InvalidInput` for another format.
        """
        if image_format not in ("RGB", "BGR"):
            raise InvalidInput(f"got image_format {image_format!r}; expected 'RGB' or 'BGR'")
        self.reset_image()
        pixels = np.asarray(image)
        if image_format == "BGR" and pixels.ndim == 3:
            pixels = pixels[..., ::-1]
        self._session = self._client.open(load_image(pixels).pixels())

    def set_torch_image(
        self,
        transformed_image: object,  # noqa: ARG002 - SAM's names
        original_image_size: object,  # noqa: ARG002
    ) -> NoReturn:
        """Always raises `InvalidInput`, because the server resizes the image."""
        raise InvalidInput(NO_RESIZING)

    def reset_image(self) -> None:
        """Drop the image."""
        self._session = None

    @property
    def is_image_set(self) -> bool:
        return self._session is not None

    @property
    def original_size(self) -> tuple[int, int]:
        """(H, W) of the image. Raises `InvalidInput` before `set_image`."""
        geometry = self._open().geometry
        return geometry.height, geometry.width

    @property
    def input_size(self) -> tuple[int, int]:
        """(h, w) of the network's input. Raises `InvalidInput` before `set_image`."""
        geometry = self._open().geometry
        return geometry.network_height, geometry.network_width

    def get_image_embedding(self) -> NoReturn:
        """Always raises `InvalidInput`, because features stay on the server."""
        raise InvalidInput(
            "image features stay on the server, in a form that only this network's decoder can "
            "use; there is no embedding to return. For depth and order maps call "
            "Session.click(want_depth=True, want_order=True)"
        )

    # -- prediction ------------------------------------------------------------------------

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,  # noqa: ARG002 - SAM's name; there is only one mask
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Segment one object -> masks, scores, low_res_logits.

        point_coords: (P, 2), (x, y) in image pixels. point_labels: (P), 1 adds, 0 removes, -1
        is no click. mask_input: (1, 256, 256) or (256, 256), the `low_res_logits` of the previous
        call. box: None, or with `boxes="clicks"` (4) or (1, 4), (x1, y1, x2, y2) in image pixels.

        masks: (1, H, W) bool, True = object; with `return_logits` float32 logits, > 0 = object.
        scores: (1) float32. low_res_logits: (1, 256, 256) float32.

        Raises `InvalidInput` or a subclass for wrong arguments or before `set_image`, and the
        errors of the client's transport.
        """
        session = self._open()
        self._check_boxes(box)
        if box is not None and point_coords is None and point_labels is None:
            points, labels = np.zeros((0, 2)), np.zeros(0, dtype=np.int32)
        else:
            points, labels = _points(point_coords, point_labels)
        if box is not None:
            fit = session.geometry
            of_box = clicks_of_box(box, fit.width, fit.height)
            points, labels = np.vstack([of_box[0], points]), np.append(of_box[1], labels)
        masks, scores, low_res = self._predict(
            session,
            points[None],
            labels[None],
            None if mask_input is None else _low_res_logits(mask_input)[None],
            return_logits=return_logits,
        )
        return masks, scores, low_res

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,  # noqa: ARG002 - SAM's name; there is only one mask
        return_logits: bool = False,
    ) -> tuple[Any, Any, Any]:
        """`predict` for B objects of the image at once, with tensors as arguments and results.

        point_coords: (B, P, 2), (x, y) in input pixels, as returned by
        `transform.apply_coords_torch`. point_labels: (B, P). mask_input: (B, 1, 256, 256) or None.
        boxes: None, or with `boxes="clicks"` (B, 4) in input pixels, as of
        `transform.apply_boxes_torch`; then the clicks may be None.

        masks: (B, 1, H, W) bool, or float32 logits. scores: (B, 1) float32. low_res_logits:
        (B, 1, 256, 256) float32. All are on the device of `point_coords`. The client itself does
        not need torch. Raises what `predict` raises.
        """
        session = self._open()
        self._check_boxes(boxes)
        alike = boxes if point_coords is None else point_coords
        if boxes is not None and point_coords is None and point_labels is None:
            coords, labels = np.zeros((len(boxes), 0, 2)), np.zeros((len(boxes), 0), np.int32)
        elif point_coords is None or point_labels is None:
            raise InvalidInput(NO_CLICKS)
        else:
            coords, labels = array_of(point_coords), array_of(point_labels)
        if coords.ndim != 3 or coords.shape[-1] != 2 or coords.dtype.kind not in "iuf":
            raise InvalidClick(
                f"got point_coords of shape {coords.shape} and type {coords.dtype}; expected "
                "(B, P, 2) numbers"
            )
        points = points_of_input(coords, session.geometry)
        if boxes is not None:
            points, labels = _with_boxes(points, labels, array_of(boxes), session.geometry)
        low_res = None
        if mask_input is not None:
            given = array_of(mask_input)
            if given.shape[:2] != (len(points), 1):
                raise InvalidInput(
                    f"got a mask_input of shape {given.shape}; expected (B, 1, {LOW_RES}, "
                    f"{LOW_RES}) with B = {len(points)}, the low_res_logits of an earlier call"
                )
            low_res = np.stack([_low_res_logits(one) for one in given])
        parts = [
            self._predict(
                session,
                points[start : start + OBJECTS_PER_REQUEST],
                labels[start : start + OBJECTS_PER_REQUEST],
                None if low_res is None else low_res[start : start + OBJECTS_PER_REQUEST],
                return_logits=return_logits,
            )
            for start in range(0, max(len(points), 1), OBJECTS_PER_REQUEST)
        ]
        masks, scores, logits = (
            tensor_like(alike, np.concatenate(arrays)[:, None])
            for arrays in zip(*parts, strict=True)
        )
        return masks, scores, logits

    def _predict(
        self,
        session: Session,
        points: NDArray[Any],
        labels: NDArray[Any],
        low_res: NDArray[np.float32] | None,
        *,
        return_logits: bool,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """points (N, P, 2) in image pixels, labels (N, P), low_res (N, 256, 256) or None -> masks
        (N, H, W), scores (N), low_res_logits (N, 256, 256)."""
        fit = session.geometry
        objects = unpack_clicks(points, labels, fit.width, fit.height)
        coverage = np.zeros((len(objects), *fit.coverage_shape), dtype=np.uint8)
        if low_res is not None:
            coverage = np.stack([_coverage(one, fit) for one in low_res])
        request = ClickRequest(
            session.picture.digest,
            *pack_clicks(objects, fit.width, fit.height),
            coverage,
            np.full(len(objects), low_res is not None),
            want_logits=True,
            session=session.id,
        )
        reply = session.send(request)
        logits = reply.logits
        if logits is None:
            raise InvalidInput("the transport returned no logits although they were requested")
        masks: NDArray[Any] = reply.masks.astype(bool)
        if return_logits:
            masks = np.stack([enlarge(one, fit.height, fit.width) for one in logits])
        return masks, mean_probability(logits), np.stack([_shrink(one) for one in logits])

    def _check_boxes(self, boxes: object) -> None:
        if boxes is not None and not self._boxes:
            raise InvalidInput(NO_BOXES)

    def _open(self) -> Session:
        if self._session is None:
            raise InvalidInput("no image is set; call set_image(...) first")
        return self._session


NO_CLICKS = (
    "got no point_coords or no point_labels; expected at least one click. A mask alone is not a "
    "prompt of this network"
)


def _points(
    coords: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coordinates (P, 2) and labels (P) as arrays. `unpack_clicks` checks their values."""
    if coords is None or labels is None:
        raise InvalidInput(NO_CLICKS)
    try:
        points, signs = np.asarray(coords), np.asarray(labels)
    except ValueError as error:
        raise InvalidClick(f"got clicks that are not an array: {error}") from error
    if points.ndim != 2 or signs.ndim != 1:
        raise InvalidClick(
            f"got point_coords of shape {points.shape} and point_labels of shape {signs.shape}; "
            "expected (P, 2) and (P)"
        )
    return points, signs.astype(np.int32) if signs.dtype == bool else signs


def _with_boxes(
    points: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any], geometry: Geometry
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Put the clicks of boxes (B, 4) in input pixels before points (B, P, 2), labels (B, P)."""
    if boxes.shape != (len(points), 4):
        raise InvalidInput(
            f"got boxes of shape {boxes.shape}; expected (B, 4) with B = {len(points)}"
        )
    corners = points_of_input(boxes.reshape(-1, 2, 2), geometry).reshape(-1, 4)
    found = [clicks_of_box(box, geometry.width, geometry.height) for box in corners]
    firsts, signs = np.stack([one[0] for one in found]), np.stack([one[1] for one in found])
    return np.concatenate([firsts, points], axis=1), np.concatenate([signs, labels], axis=1)


def _low_res_logits(mask_input: ArrayLike) -> NDArray[np.float32]:
    """SAM's mask_input -> (256, 256) float."""
    logits = np.asarray(mask_input)
    if logits.shape not in ((1, LOW_RES, LOW_RES), (LOW_RES, LOW_RES)) or logits.dtype.kind != "f":
        raise InvalidInput(
            f"got a mask_input of shape {logits.shape} and type {logits.dtype}; expected "
            f"(1, {LOW_RES}, {LOW_RES}) float, the low_res_logits of an earlier predict"
        )
    return logits.reshape(LOW_RES, LOW_RES)


def _coverage(low_res: NDArray[np.float32], geometry: Geometry) -> NDArray[np.uint8]:
    """(256, 256) logits -> coverage uint8 of shape `geometry.coverage_shape`."""
    stretched = dataclasses.replace(geometry, width=LOW_RES, height=LOW_RES)
    return coverage_of_mask(low_res > 0, stretched)


def _shrink(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) -> (256, 256)."""
    low_res = Image.fromarray(logits).resize((LOW_RES, LOW_RES), Image.Resampling.BILINEAR)
    return np.asarray(low_res, dtype=np.float32)
