"""What a server does with one request, without Triton: tensors in, tensors or an error out.

The model `ois_segment` is this with Triton's tensors around it; tests run it in process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import MaskFormat, encode_mask
from ois_client.contract.transport import ClickRequest
from ois_client.wire import Call, ReplyInfo, Tensors, read_call, write_reply
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.segmenter import Refined, Segmenter, timed
from ois_runtime.serving.configuration import ServingOptions


class Cancelled(Exception):
    """The client no longer wants the answer; not one of its errors."""


@dataclass(slots=True)
class Record:
    """What one request was and took, for the log line and the metrics."""

    kind: str = "invalid"  # then "info", "encode" or "click"
    session: str = "-"
    digest: str = ""
    objects: int = 0
    #: features: "hit", "miss", or "" where none were needed
    features: str = ""
    decodes: int = 0  # runs of the decoder
    timings_ms: dict[str, float] = field(default_factory=dict)

    def line(self, outcome: str) -> str:
        stages = " ".join(f"{stage}={ms:.1f}" for stage, ms in self.timings_ms.items())
        parts = (
            f"ois {self.kind} {outcome} session={self.session} image={self.digest[:12] or '-'}",
            f"objects={self.objects}" if self.objects else "",
            f"features={self.features}" if self.features else "",
            f"ms: {stages}" if stages else "",
        )
        return " ".join(filter(None, parts))


class SegmentService:
    """Answers requests, each in the thread that calls. Thread-safe."""

    def __init__(self, segmenter: Segmenter, options: ServingOptions | None = None) -> None:
        self.segmenter = segmenter
        self.options = options or ServingOptions()

    def brings_new_image(self, tensors: Mapping[str, NDArray[Any]]) -> bool:
        """Whether answering will probably take an encode: decides the line to wait in.

        Reads only the claimed digest; never raises.
        """
        if "IMAGE" not in tensors:
            return False
        digest = tensors.get("DIGEST")
        if digest is None or digest.size != 1 or not isinstance(digest.flat[0], bytes):
            return True
        return not self.segmenter.holds(digest.flat[0].decode("latin-1"))

    def handle(
        self,
        tensors: Mapping[str, NDArray[Any]],
        parameters: Mapping[str, Any],
        record: Record,
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Tensors:
        """Every output of the wire. Fills `record` as far as it gets.

        Raises `OISError`, all kinds, and `Cancelled` between two stages of the work.
        """
        started = time.perf_counter()
        options = self.options
        call = read_call(
            tensors, parameters, max_objects=options.max_objects, limits=options.limits
        )
        record.session = call.session or "-"
        record.digest = call.digest or ""
        record.objects = call.objects
        record.kind = "click" if call.objects else "info" if call.digest is None else "encode"
        if call.digest is None:
            return write_reply(ReplyInfo(self.segmenter.info(), probe=self.segmenter.probe_size()))
        _check_wanted(cancelled)
        state, cached = self._features(call, call.digest, record)
        geometry = state.geometry
        reply = {}
        if call.objects:
            reply = self._click(state, call, record, cancelled)
        record.timings_ms["total"] = (time.perf_counter() - started) * 1e3
        info = ReplyInfo(
            self.segmenter.info(),
            digest=call.digest,
            width=geometry.width,
            height=geometry.height,
            cached=cached,
            timings_ms={stage: round(ms, 3) for stage, ms in record.timings_ms.items()},
        )
        return {**write_reply(info), **reply}

    def _features(self, call: Call, digest: str, record: Record) -> tuple[ImageState, bool]:
        record.features = "miss"
        if call.picture is None:
            state, cached = self.segmenter.find(digest), True
        else:
            encoded = self.segmenter.encode(call.picture)
            record.timings_ms.update(encoded.timings_ms)
            state, cached = encoded.state, encoded.cached
        record.features = "hit" if cached else "miss"
        return state, cached

    def _click(
        self, state: ImageState, call: Call, record: Record, cancelled: Callable[[], bool]
    ) -> Tensors:
        """The outputs that clicks have. One mask at a time: pictures can be large."""
        request = call.click_request(state.geometry)
        self._check_reply_size(state, request)
        parts: list[Refined] = []
        masks: list[bytes] = []
        for start in range(0, call.objects, self.options.decode_objects):
            _check_wanted(cancelled)
            rows = slice(start, start + self.options.decode_objects)
            refined = self.segmenter.refine(state, _rows(request, rows))
            record.decodes += 1
            _add(record.timings_ms, refined.timings_ms)
            took: dict[str, float] = {}
            for row in range(len(refined.coverage)):
                masks.append(_encoded(refined, row, call.mask_format, took))
                _add(record.timings_ms, took)
            # Masks are encoded, and logits can be large: only what the reply takes is kept.
            parts.append(
                replace(
                    refined, packed=None, logits=refined.logits if request.want_logits else None
                )
            )
        reply: Tensors = {
            "MASKS": np.frombuffer(b"".join(masks), dtype=np.uint8),
            "MASK_SIZES": np.array([len(mask) for mask in masks], dtype=np.int64),
            "NEW_COVERAGE": np.concatenate([part.coverage for part in parts]),
        }
        if request.want_logits:
            reply["LOGITS"] = np.concatenate(
                [part.logits for part in parts if part.logits is not None]
            )
        if request.want_depth and parts[0].depth is not None:
            reply["DEPTH"] = parts[0].depth
        if request.want_order:
            reply["ORDER"] = np.concatenate(
                [part.order for part in parts if part.order is not None]
            )
        return reply

    def _check_reply_size(self, state: ImageState, request: ClickRequest) -> None:
        positive = (request.labels == 1).any(axis=1).sum()
        maps = int(positive + (request.labels == 0).sum()) if request.want_order else 0
        maps += len(request.points) if request.want_logits else 0
        geometry = state.geometry
        size = maps * geometry.network_width * geometry.network_height * 4
        if size > self.options.max_reply_bytes:
            raise InvalidInput(
                f"got a request for {maps} logit and order maps, {size} bytes; the limit is "
                f"{self.options.max_reply_bytes}. Ask for fewer objects at once"
            )


def _encoded(refined: Refined, row: int, form: MaskFormat, took: dict[str, float]) -> bytes:
    """One mask as the wire has it; a device's packed bits are that already."""
    if refined.packed is not None and form is MaskFormat.PACKED:
        return refined.packed[row].tobytes()
    with timed(took, "postprocess"):
        mask = refined.mask(row)
    with timed(took, "encode_mask"):
        return encode_mask(mask, form)


def _rows(request: ClickRequest, rows: slice) -> ClickRequest:
    """The request for some of its objects."""
    return replace(
        request,
        points=request.points[rows],
        labels=request.labels[rows],
        coverage=request.coverage[rows],
        has_previous=request.has_previous[rows],
    )


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for stage, ms in more.items():
        total[stage] = total.get(stage, 0.0) + ms


def _check_wanted(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled
