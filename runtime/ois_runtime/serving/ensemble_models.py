"""The models `ois_preprocess` and `ois_postprocess`, the first and last step of the ensembles.

    ois_encode    IMAGE ─► ois_preprocess ─► ois_encoder ─► ImageState
    ois_oneshot   IMAGE, POINTS, LABELS ─► ... ─► ois_decoder ─► ois_postprocess ─► MASKS

The ensembles are stateless and meant for batch pipelines: every request includes an encode.
`ois_segment` runs the same steps in its own process, to keep clicks fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Prompts, place_clicks
from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import encode_mask
from ois_client.wire import Tensors, check_objects, read_call
from ois_runtime.engines.pair import HostPrompts, check_prompts
from ois_runtime.engines.pixels import postprocess, preprocess
from ois_runtime.serving.configuration import load_manifest, read_options
from ois_runtime.serving.request_counter import RequestCounter
from ois_runtime.serving.triton_io import error_response, read_inputs, read_parameters, response


class PreprocessModel:
    """IMAGE, IMAGE_SHAPE, POINTS, LABELS (all but IMAGE optional) -> the engines' inputs."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._manifest = load_manifest(args)
        self._options = read_options(args)
        self._counter = RequestCounter()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        with self._counter:
            return [_answer(request, self._run) for request in requests]

    def _run(self, tensors: Tensors, parameters: Mapping[str, Any]) -> Tensors:
        # Ensembles have no optional inputs, so an empty array means that the input is absent.
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
            points, labels = place_clicks(call.points, call.labels, geometry)
            prompts: HostPrompts = Prompts(points, labels, request.coverage, request.has_previous)
            check_prompts(prompts, geometry)  # here, because Triton runs the decoder by itself
            outputs |= prompts.named()
        return outputs


class PostprocessModel:
    """logits (N, h, w) and SIZE (width, height) -> MASKS and MASK_SIZES, as in `ois_segment`.

    Clients can reach this model directly, so it checks the limit on an image's size itself: SIZE
    alone decides how large a mask becomes.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        self._manifest = load_manifest(args)
        self._options = read_options(args)
        self._counter = RequestCounter()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        with self._counter:
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
        # One mask at a time, because images can be large.
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
        outputs = run(read_inputs(request), read_parameters(request))
        if set(request.requested_output_names()) - outputs.keys():
            raise InvalidInput("got no POINTS and LABELS; expected the clicks on every object")
        return response(request, outputs)
    except Exception as error:
        return error_response(error)
