"""Replies: the server writes masks as tensors, the client reads and checks them.

The format is described in `schema.py`. The reader checks every size against the request and the
image before it decodes a mask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import IncompatibleServer, OISError
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import MAX_PIXELS, MaskFormat, decode_mask, encode_mask
from ois_client.contract.transport import (
    Answer,
    ClickReply,
    ClickRequest,
    EncodeReply,
    ModelInfo,
    check_compatible,
)
from ois_client.wire.schema import (
    CONTRACT,
    OUTPUTS,
    Tensors,
    check_tensor,
)

_SAME_RELEASE = "Install the same release of ois-deploy on both sides"


@dataclass(frozen=True, slots=True)
class ReplyInfo:
    """The JSON in INFO: these fields and those of `model`.

    digest, width, height: of the upright image; "", 0 and 0 if the request named no image.
    cached: the image's features were already stored.
    probe: (width, height) of a small picture that the engines accept, for health checks; only in
    the reply to a request without an image. Clients do not read it.
    oneshot: the server has the model `ois_oneshot`, for clicks of any round; only in the reply to a
    request without an image. Servers of earlier releases do not send it, which means False.
    answer: coarse if the masks are those of a coarse answer.
    """

    model: ModelInfo
    digest: str = ""
    width: int = 0
    height: int = 0
    cached: bool = False
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    probe: tuple[int, int] | None = None
    oneshot: bool = False
    answer: Answer = Answer.FULL

    def to_json(self) -> str:
        rest = _fields(self)
        return json.dumps({"contract": CONTRACT, **_fields(rest.pop("model")), **rest})

    @classmethod
    def from_json(cls, text: str | bytes) -> ReplyInfo:
        """Read INFO. Raises `IncompatibleServer` if this client cannot work with the server."""
        try:
            data = {**_EARLIER, **json.loads(text)}
            contract = data["contract"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise IncompatibleServer(
                f"the server's INFO is not what ois-deploy sends ({type(error).__name__}: "
                f"{error}). Is this an OIS server?"
            ) from error
        if contract != CONTRACT:
            raise IncompatibleServer(
                f"the server uses contract {contract!r}, this client {CONTRACT}. {_SAME_RELEASE}"
            )
        model = ModelInfo(**_typed(data, _MODEL_TYPES))
        check_compatible(model)
        rest = _typed(data, _INFO_TYPES)
        sides = rest["width"], rest["height"]
        if min(sides) < 0 or sides[0] * sides[1] > MAX_PIXELS:
            raise _unexpected(f"an image of {sides[0]}x{sides[1]} pixels")
        rest["timings_ms"] = {
            stage: float(value)
            for stage, value in rest["timings_ms"].items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if data["answer"] not in [*Answer]:
            raise _unexpected(f"INFO with answer = {str(data['answer'])[:80]!r}")
        oneshot = data.get("oneshot") is True
        return cls(model, **rest, oneshot=oneshot, answer=Answer(data["answer"]))


def _fields(value: Any) -> dict[str, Any]:
    """`asdict` without copies, because every click writes this."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


#: What servers of earlier releases do not say.
_EARLIER = {"coverage_scale": 1, "coarse_answers": False, "answer": Answer.FULL}
_MODEL_TYPES: dict[str, type] = {
    "network": str,
    "longest": int,
    "patch": int,
    "preprocess_version": str,
    "model_sha256": str,
    "trained": bool,
    "engine": str,
    "coverage_scale": int,
    "coarse_answers": bool,
}
_INFO_TYPES: dict[str, type] = {
    "digest": str,
    "width": int,
    "height": int,
    "cached": bool,
    "timings_ms": dict,
}


def _typed(data: Mapping[str, Any], types: Mapping[str, type]) -> dict[str, Any]:
    for key, kind in types.items():
        # `bool` is a subclass of `int`, so `isinstance` would accept true as a size.
        if type(data.get(key)) is not kind:
            raise _unexpected(f"INFO with {key} = {data.get(key)!r}; expected {kind.__name__}")
    return {key: data[key] for key in types}


def _unexpected(what: str) -> IncompatibleServer:
    return IncompatibleServer(f"the server answered with {what}. {_SAME_RELEASE}")


# -- the server writes --------------------------------------------------------------------------


def info_tensor(info: ReplyInfo) -> NDArray[np.uint8]:
    """INFO: (bytes) uint8."""
    return np.frombuffer(info.to_json().encode(), dtype=np.uint8)


def write_reply(
    info: ReplyInfo,
    reply: ClickReply | None = None,
    *,
    mask_format: MaskFormat = MaskFormat.PACKED,
) -> Tensors:
    """The outputs of the table in `schema.py` that apply. None of them is empty.

    The caller may drop outputs that were not requested. Depth, logits and order maps are there
    if `reply` has them.
    """
    tensors: Tensors = {"INFO": info_tensor(info)}
    if reply is None:
        return tensors
    encoded = [encode_mask(mask, mask_format) for mask in reply.masks]
    tensors["MASKS"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    tensors["MASK_SIZES"] = np.array([len(data) for data in encoded], dtype=np.int64)
    if reply.answer is Answer.FULL:
        tensors["NEW_COVERAGE"] = np.ascontiguousarray(reply.coverage)
    for name, array in (("DEPTH", reply.depth), ("LOGITS", reply.logits), ("ORDER", reply.order)):
        if array is not None:
            tensors[name] = np.ascontiguousarray(array, dtype=np.float32)
    return tensors


# -- the client reads ---------------------------------------------------------------------------


def read_info(tensors: Mapping[str, NDArray[Any]]) -> ReplyInfo:
    """Read INFO. Raises `IncompatibleServer` if the reply does not have a valid one."""
    return ReplyInfo.from_json(_take(tensors, "INFO").tobytes())


def read_encode_reply(tensors: Mapping[str, NDArray[Any]], digest: str) -> EncodeReply:
    """Read the reply to `encode_message` of the picture with this digest.

    Raises `IncompatibleServer` if it is not that.
    """
    info = _info_for(tensors, digest)
    return EncodeReply(digest, info.cached, info.timings_ms, info.model.model_sha256)


def read_click_reply(
    tensors: Mapping[str, NDArray[Any]],
    request: ClickRequest,
    *,
    mask_format: MaskFormat = MaskFormat.PACKED,
) -> ClickReply:
    """Read the reply to `click_message(request, mask_format=mask_format)`.

    Raises `IncompatibleServer` if it does not fit the request.
    """
    info = _info_for(tensors, request.digest)
    if info.width < 1 or info.height < 1:
        raise _unexpected(f"masks of {info.width}x{info.height} pixels")
    geometry = info.model.fit(info.width, info.height)
    count = len(request.points)
    size = (geometry.network_height, geometry.network_width)
    maps = int(_maps_per_object(request.labels).sum()) if request.want_order else 0
    encoded = _encoded_masks(tensors, count)
    if info.answer is not request.answer:
        raise _unexpected(f"a {info.answer} answer to a request for a {request.answer} one")
    if info.answer is Answer.COARSE:
        coverage: NDArray[Any] = np.zeros((count, 0, 0), dtype=np.uint8)
    else:
        coverage = _take(tensors, "NEW_COVERAGE", (count, *geometry.coverage_shape))
    return ClickReply(
        _decode_masks(encoded, geometry, mask_format),
        coverage,
        info.timings_ms,
        _take(tensors, "DEPTH", size) if request.want_depth else None,
        _take(tensors, "LOGITS", (count, *size)) if request.want_logits else None,
        _take(tensors, "ORDER", (maps, *size)) if request.want_order else None,
        info.model.model_sha256,
        packed=encoded if mask_format is MaskFormat.PACKED else None,
        answer=info.answer,
    )


def _info_for(tensors: Mapping[str, NDArray[Any]], digest: str) -> ReplyInfo:
    info = read_info(tensors)
    if info.digest != digest:
        raise _unexpected(f"the image {info.digest[:12]}… to a request for {digest[:12]}…")
    return info


def _maps_per_object(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """(N, P) labels -> (N) the number of order maps of each object, see `ClickReply.order`."""
    return (labels == 1).any(axis=1).astype(np.int64) + (labels == 0).sum(axis=1)


def _encoded_masks(tensors: Mapping[str, NDArray[Any]], count: int) -> tuple[bytes, ...]:
    sizes = _take(tensors, "MASK_SIZES", (count,))
    data = _take(tensors, "MASKS").tobytes()
    if (sizes < 0).any() or int(sizes.sum()) != len(data):
        raise _unexpected(f"{len(data)} bytes of masks, but the sizes {sizes.tolist()[:8]}")
    ends = np.cumsum(sizes).tolist()
    return tuple(data[end - length : end] for end, length in zip(ends, sizes.tolist(), strict=True))


def _decode_masks(
    encoded: tuple[bytes, ...], geometry: Geometry, form: MaskFormat
) -> NDArray[np.uint8]:
    if len(encoded) == 1:
        return _mask(encoded[0], form, geometry)[None]  # no copy: it would double the time
    masks = np.empty((len(encoded), geometry.height, geometry.width), dtype=np.uint8)
    for mask, data in zip(masks, encoded, strict=True):
        mask[:] = _mask(data, form, geometry)
    return masks


def _mask(data: bytes, form: MaskFormat, geometry: Geometry) -> NDArray[np.uint8]:
    try:
        return decode_mask(data, form, geometry.width, geometry.height)
    except OISError as error:
        raise _unexpected(f"a mask that cannot be read ({error})") from error


def _take(
    tensors: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...] | None = None
) -> NDArray[Any]:
    array = tensors.get(name)
    if array is None:
        raise _unexpected(f"no {name}")
    try:
        check_tensor(OUTPUTS, name, array)
    except OISError as error:
        raise _unexpected(f"a tensor of the wrong type ({error})") from error
    if shape is not None and array.shape != shape:
        raise _unexpected(f"{name} of shape {array.shape}; expected {shape}")
    return array
