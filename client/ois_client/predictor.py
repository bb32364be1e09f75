"""`OISPredictor`: the names, arguments and return values that users of `SamPredictor` know."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ois_client.clicks import pack_clicks, unpack_clicks
from ois_client.client import Client
from ois_client.coverage import coverage_of_mask
from ois_client.errors import InvalidClick, InvalidInput
from ois_client.geometry import Geometry
from ois_client.images import load_image
from ois_client.session import Session
from ois_client.transport import ClickRequest

#: Side of `low_res_logits` and `mask_input`, as in SAM.
LOW_RES = 256


class OISPredictor:
    """Code written for `SamPredictor` runs with `OISPredictor(client)` in its place.

        predictor = OISPredictor(Client("grpc://host:8001"))
        predictor.set_image(image)
        masks, scores, low_res_logits = predictor.predict(point_coords, point_labels)

    What is different, because the network is:

    - C, the number of masks, is always 1: there are no ambiguous alternatives, with
      `multimask_output` or without.
    - There are no boxes: `box` raises `InvalidInput`. Clicks are needed, a mask alone is no
      prompt.
    - `scores` is the mean probability that the network gives the mask's own pixels, 0 for an
      empty mask. It is not an estimate of the IoU, and is for comparing masks of one object.
    - `low_res_logits` cover the whole image, stretched to 256 x 256; SAM's cover it padded to
      a square. As `mask_input` they say which patches the previous mask covers. At 256 x 256
      thin parts may vanish: a `Session` keeps them, and sends a hundredth of the data.
    - Image features stay on the server: `get_image_embedding` raises.

    Each `predict` depends on its arguments alone, as SAM's. Not for several threads at once.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._session: Session | None = None

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

    def reset_image(self) -> None:
        """Forget the image."""
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
        """(h, w) that the network sees. Raises `InvalidInput` before `set_image`."""
        geometry = self._open().geometry
        return geometry.network_height, geometry.network_width

    def get_image_embedding(self) -> NoReturn:
        """Always raises `InvalidInput`: there is no such array on this side."""
        raise InvalidInput(
            "image features stay on the server, in a form that only this network's decoder can "
            "use; there is no embedding to get. Depth and order maps can be had: see "
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
        """Segment what the clicks mean -> masks, scores, low_res_logits.

        point_coords: (P, 2), (x, y) in image pixels. point_labels: (P), 1 adds, 0 removes, -1
        is no click. mask_input: (1, 256, 256) or (256, 256), the `low_res_logits` of the call
        before. box: must be None.

        masks: (1, H, W) bool, True = object; with `return_logits` float32 logits instead,
        above 0 = object. scores: (1) float32. low_res_logits: (1, 256, 256) float32.

        Raises `InvalidInput` and its kinds for wrong arguments or before `set_image`, and what
        the client's transport raises.
        """
        if box is not None:
            raise InvalidInput(
                "got a box; this network's prompts are clicks. Click on the object's middle, and "
                "negatively on what else the box would hold"
            )
        session = self._open()
        geometry = session.geometry
        points, labels = _points(point_coords, point_labels, geometry)
        grid = (1, geometry.grid_height, geometry.grid_width)
        coverage = np.zeros(grid, dtype=np.uint8)
        if mask_input is not None:
            coverage[0] = _coverage(mask_input, geometry)
        has_previous = np.array([mask_input is not None])
        request = ClickRequest(
            session.picture.digest,
            points,
            labels,
            coverage,
            has_previous,
            want_logits=True,
            session=session.id,
        )
        reply = session.send(request)
        logits = reply.logits
        if logits is None:
            raise InvalidInput("the transport gave no logits, which it was asked for")
        masks: NDArray[Any] = reply.masks.astype(bool)
        if return_logits:
            masks = _resize(logits[0], geometry.height, geometry.width)[None]
        low_res = Image.fromarray(logits[0]).resize((LOW_RES, LOW_RES), Image.Resampling.BILINEAR)
        return masks, _scores(logits), np.asarray(low_res, dtype=np.float32)[None]

    def _open(self) -> Session:
        if self._session is None:
            raise InvalidInput("no image is set; call set_image(...) first")
        return self._session


def _points(
    coords: ArrayLike | None, labels: ArrayLike | None, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """SAM's (P, 2) and (P) -> the wire's (1, P, 2) and (1, P), all of it checked."""
    if coords is None or labels is None:
        raise InvalidInput(
            "got no point_coords, or no point_labels; expected at least one click. A mask alone "
            "is no prompt of this network"
        )
    try:
        points, signs = np.asarray(coords), np.asarray(labels)
    except ValueError as error:
        raise InvalidClick(f"got clicks that are no array: {error}") from error
    if points.ndim != 2 or signs.ndim != 1:
        raise InvalidClick(
            f"got point_coords of shape {points.shape} and point_labels of shape {signs.shape}; "
            "expected (P, 2) and (P)"
        )
    if signs.dtype == bool:
        signs = signs.astype(np.int32)
    objects = unpack_clicks(points[None], signs[None], geometry.width, geometry.height)
    return pack_clicks(objects, geometry.width, geometry.height)


def _coverage(mask_input: ArrayLike, geometry: Geometry) -> NDArray[np.uint8]:
    """Low-resolution logits -> coverage (gh, gw) uint8."""
    logits = np.asarray(mask_input)
    if logits.shape not in ((1, LOW_RES, LOW_RES), (LOW_RES, LOW_RES)) or logits.dtype.kind != "f":
        raise InvalidInput(
            f"got a mask_input of shape {logits.shape} and type {logits.dtype}; expected "
            f"(1, {LOW_RES}, {LOW_RES}) float, the low_res_logits of an earlier predict"
        )
    stretched = Geometry(LOW_RES, LOW_RES, geometry.grid_width, geometry.grid_height)
    return coverage_of_mask(logits.reshape(LOW_RES, LOW_RES) > 0, stretched)


def _scores(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, h, w) -> (N): the mean probability of the pixels above 0."""
    scores = np.zeros(len(logits), dtype=np.float32)
    for row, one in enumerate(logits):
        inside = one[one > 0].astype(np.float64)
        if inside.size:
            scores[row] = (1 / (1 + np.exp(-inside))).mean()
    return scores


def _resize(logits: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(h, w) -> (height, width), bilinear with half-pixel centres, as masks are made of logits."""

    def taps(size: int, source: int) -> tuple[Any, Any, Any, Any]:
        position = (np.arange(size) + 0.5) * (source / size) - 0.5
        position = np.clip(position, 0, source - 1)
        low = np.floor(position).astype(np.int64)
        high = position - low
        weights = (1 - high).astype(np.float32), high.astype(np.float32)
        return low, np.minimum(low + 1, source - 1), *weights

    left, right, at_left, at_right = taps(width, logits.shape[1])
    upper, lower, at_upper, at_lower = taps(height, logits.shape[0])
    wide = logits[:, left] * at_left + logits[:, right] * at_right
    large: NDArray[np.float32] = wide[upper] * at_upper[:, None] + wide[lower] * at_lower[:, None]
    return large
