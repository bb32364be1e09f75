"""The models `ois_preprocess` and `ois_postprocess`: the ends of the ensembles.

    ois_encode    IMAGE ─► ois_preprocess ─► ois_encoder ─► ImageState
    ois_oneshot   IMAGE, POINTS, LABELS ─► ... ─► ois_decoder ─► ois_postprocess ─► MASKS

Stateless, for batch pipelines: every request pays for its encode. `ois_segment` has these
stages inside, because a click must not travel through four models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray

from ois_client.contract.clicks import fill_slots, unpack_clicks
from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import encode_mask
from ois_client.wire import Tensors, check_objects, read_call
from ois_runtime.engines.postprocess import postprocess
from ois_runtime.engines.preprocess import preprocess
from ois_runtime.serving.limits import load_manifest
from ois_runtime.serving.request_counter import Busy
from ois_runtime.serving.segment_model import error_of, read_options


class PreprocessModel:
    """IMAGE, IMAGE_SHAPE, POINTS, LABELS (all but the first optional) -> the engines' inputs."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._manifest = load_manifest(args)
        self._options = read_options(args)
        self._busy = Busy()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        with self._busy:
            return [_answer(request, self._run) for request in requests]

    def _run(self, tensors: Tensors, parameters: Mapping[str, Any]) -> Tensors:
        # An ensemble has no optional inputs: an empty one says the same.
        given = {name: array for name, array in tensors.items() if array.size}
        options, manifest = self._options, self._manifest
        call = read_call(given, parameters, max_objects=options.max_objects, limits=options.limits)
        if call.picture is None:
            raise InvalidInput("got no IMAGE; expected one in every request")
        image, geometry = preprocess(call.picture, longest=manifest.longest, patch=manifest.patch)
        rows, columns = geometry.position_matrices(manifest.position_table)
        outputs: Tensors = {
            "image": image,
            "pos_rows": rows,
            "pos_cols": columns,
            "SIZE": np.array([geometry.width, geometry.height], dtype=np.int32),
        }
        if call.points is not None and call.labels is not None:
            request = call.click_request(geometry)
            objects = unpack_clicks(call.points, call.labels, geometry.width, geometry.height)
            points, labels = fill_slots(objects, geometry)
            outputs |= {
                "points": points,
                "labels": labels,
                "coverage": request.coverage,
                "has_previous": request.has_previous,
            }
        return outputs


class PostprocessModel:
    """logits (N, h, w) and SIZE -> MASKS and MASK_SIZES, as `ois_segment` has them.

    Clients reach it without the ensemble too, so it keeps the limits of a picture itself: a mask
    is as large as SIZE says, however little was sent.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        self._manifest = load_manifest(args)
        self._options = read_options(args)
        self._busy = Busy()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        with self._busy:
            return [_answer(request, self._run) for request in requests]

    def _run(self, tensors: Tensors, parameters: Mapping[str, Any]) -> Tensors:
        form = read_call({}, parameters).mask_format
        width, height = (int(side) for side in tensors["SIZE"])
        options, manifest = self._options, self._manifest
        check_objects(len(tensors["logits"]), options.max_objects)
        if width > 0 and height > 0 and width * height > options.max_image_pixels:
            raise InvalidImage(
                f"got SIZE {width}x{height}, {width * height} pixels; the limit is "
                f"{options.max_image_pixels}. Scale the image down"
            )
        geometry = Geometry.fit(width, height, longest=manifest.longest, patch=manifest.patch)
        # One mask at a time: pictures can be large.
        encoded = [encode_mask(_mask(logits, geometry), form) for logits in tensors["logits"]]
        return {
            "MASKS": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "MASK_SIZES": np.array([len(data) for data in encoded], dtype=np.int64),
        }


def _mask(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.uint8]:
    (mask,) = postprocess(logits[None], geometry)
    return mask


def _answer(request: Any, run: Callable[[Tensors, Mapping[str, Any]], Tensors]) -> Any:
    try:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        outputs = run(tensors, json.loads(request.parameters() or "{}"))
        wanted = set(request.requested_output_names())
        if wanted - outputs.keys():
            raise InvalidInput("got no POINTS and LABELS; expected the clicks on every object")
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in outputs.items() if name in wanted]
        )
    except Exception as error:
        return pb_utils.InferenceResponse(error=error_of(error))
