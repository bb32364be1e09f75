"""The models `ois_preprocess` and `ois_postprocess`, the first and last step of the ensembles.

    ois_encode    IMAGE ─► ois_preprocess ─► ois_encoder ─► ImageState
    ois_oneshot   IMAGE, clicks, coverage ─► ... ─► ois_decoder ─► ois_postprocess ─► MASKS

The ensembles are stateless and meant for batch pipelines: every request includes an encode.
`ois_segment` runs the same steps and keeps the features, for people who click.

No model sees a whole request of `ois_oneshot`. `ois_preprocess` counts the requests that it
refuses, `ois_postprocess` those that are answered. If an engine fails in between, only Triton
counts it, as `nv_inference_request_failure{model="ois_oneshot"}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray

from ois_client.contract.clicks import Prompts, place_clicks
from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import encode_mask
from ois_client.contract.transport import Answer
from ois_client.wire import ReplyInfo, Tensors, check_objects, read_call
from ois_client.wire.reply import info_tensor
from ois_runtime.engines.pair import HostPrompts, check_prompts
from ois_runtime.engines.pixels import postprocess, preprocess
from ois_runtime.engines.segmenter import timed
from ois_runtime.serving.configuration import load_manifest, read_options
from ois_runtime.serving.metric_families import ONESHOT_METRICS, TritonMetrics
from ois_runtime.serving.metrics import DECODES, REQUESTS
from ois_runtime.serving.service import RequestRecord
from ois_runtime.serving.triton_io import (
    error_response,
    make_shared_memory_private,
    read_inputs,
    read_parameters,
    response,
)


class EnsembleModel:
    """What both models share: limits, metrics, log lines and errors."""

    def initialize(self, args: Mapping[str, str]) -> None:
        make_shared_memory_private()
        self._manifest = load_manifest(args)
        self._options = read_options(args)
        self._metrics = TritonMetrics(ONESHOT_METRICS)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        raise NotImplementedError

    def _report(self, record: RequestRecord, outcome: str) -> None:
        """Count a request of `ois_oneshot` and log it. outcome: "ok" or an error's code."""
        self._metrics.add(REQUESTS[0], 1, {"kind": record.kind, "outcome": outcome})
        if record.decodes:
            self._metrics.add(DECODES[0], record.decodes, {})
        pb_utils.Logger.log_info(record.log_line(outcome))


class PreprocessModel(EnsembleModel):
    """An image, and clicks of any round on it -> the engines' inputs, and INFO for the client."""

    def _answer(self, request: Any) -> Any:
        record = RequestRecord("oneshot")
        of_oneshot = False
        try:
            tensors = read_inputs(request)
            of_oneshot = "POINTS" in tensors  # an ensemble sends all its inputs, even if empty
            outputs = self._run(tensors, read_parameters(request), record)
            if set(request.requested_output_names()) - outputs.keys():
                raise InvalidInput("got no POINTS and LABELS; expected the clicks on every object")
            return response(request, outputs)
        except Exception as error:
            if of_oneshot:
                self._report(record, getattr(error, "code", "INTERNAL"))
            return error_response(error)

    def _run(
        self, tensors: Tensors, parameters: Mapping[str, Any], record: RequestRecord
    ) -> Tensors:
        # Ensembles have no optional inputs, so an empty array means that the input is absent.
        given = {name: array for name, array in tensors.items() if array.size}
        options, manifest = self._options, self._manifest
        call = read_call(given, parameters, max_objects=options.max_objects, limits=options.limits)
        record.session, record.objects = call.session or "-", call.objects
        record.digest = call.digest or ""
        if call.picture is None:
            raise InvalidInput("got no IMAGE; expected one in every request")
        if call.want:
            raise InvalidInput(
                f"got ois_want {','.join(sorted(call.want))}; this model returns masks and "
                "coverage only. Ask ois_segment"
            )
        if call.answer is Answer.COARSE:
            raise InvalidInput(
                "got ois_answer coarse; this model returns full answers only. Ask ois_segment"
            )
        with timed(record.timings_ms, "preprocess"):
            image, geometry = preprocess(call.picture, manifest.fit)
        rows, columns = geometry.position_matrices(manifest.position_table)
        info = ReplyInfo(
            manifest.model_info(f"tritonserver {manifest.target} {manifest.precision}, stateless"),
            digest=call.picture.digest,
            width=geometry.width,
            height=geometry.height,
            timings_ms={stage: round(ms, 3) for stage, ms in record.timings_ms.items()},
        )
        outputs: Tensors = {
            "image": image,
            "pos_rows": rows,
            "pos_cols": columns,
            "SIZE": np.array([geometry.width, geometry.height], dtype=np.int32),
            "INFO": info_tensor(info),
        }
        if call.points is not None and call.labels is not None:
            request = call.click_request(geometry)
            points, labels = place_clicks(call.points, call.labels, geometry)
            prompts: HostPrompts = Prompts(points, labels, request.coverage, request.has_previous)
            check_prompts(prompts, geometry)  # here, because Triton runs the decoder by itself
            outputs |= prompts.named()
        return outputs


class PostprocessModel(EnsembleModel):
    """logits (N, h, w) and SIZE (width, height) -> MASKS and MASK_SIZES, as in `ois_segment`.

    Clients can reach this model directly, so it checks the limit on an image's size itself: SIZE
    alone decides how large a mask becomes.
    """

    def _answer(self, request: Any) -> Any:
        record = RequestRecord("oneshot")
        try:
            outputs = self._run(read_inputs(request), read_parameters(request), record)
            reply = response(request, outputs)
        except Exception as error:
            self._report(record, getattr(error, "code", "INTERNAL"))
            return error_response(error)
        self._report(record, "ok")
        return reply

    def _run(
        self, tensors: Tensors, parameters: Mapping[str, Any], record: RequestRecord
    ) -> Tensors:
        call = read_call({}, parameters)
        width, height = (int(side) for side in tensors["SIZE"])
        options, manifest = self._options, self._manifest
        record.session, record.objects = call.session or "-", len(tensors["logits"])
        check_objects(record.objects, options.max_objects)
        if width > 0 and height > 0 and width * height > options.max_image_pixels:
            raise InvalidImage(
                f"got SIZE {width}x{height}, {width * height} pixels; the limit is "
                f"{options.max_image_pixels}. Scale the image down"
            )
        geometry = manifest.fit(width, height)
        record.decodes = 1  # the decoder's run that made these logits
        with timed(record.timings_ms, "postprocess"):
            # One mask at a time, because images can be large.
            masks = [
                encode_mask(_mask(logits, geometry), call.mask_format)
                for logits in tensors["logits"]
            ]
        return {
            "MASKS": np.frombuffer(b"".join(masks), dtype=np.uint8),
            "MASK_SIZES": np.array([len(data) for data in masks], dtype=np.int64),
        }


def _mask(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.uint8]:
    (mask,) = postprocess(logits[None], geometry)
    return mask
