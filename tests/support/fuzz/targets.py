"""Functions that read what comes from outside, each as a target of a fuzzer: bytes in, and either
a value or a typed error.

`guided.py` runs them under atheris, which looks for inputs that reach new code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from ois_client import wire
from ois_client.contract.errors import IncompatibleServer, InvalidInput, OISError
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import ImageLimits, load_image
from ois_client.contract.masks import MaskFormat, coco_of_mask, decode_mask, mask_of_coco
from ois_client.contract.transport import ModelInfo
from ois_client.formats.brush import brush_of_mask, mask_of_brush
from ois_client.formats.cvat import cvat_of_mask, mask_of_cvat
from ois_client.transports import http
from ois_client.wire.schema import from_bytes
from ois_runtime.front.requests import checked_json, checked_message
from support.fuzz.files import good_files
from support.server.malformed import GOOD, RawRequest

CORPUS = Path(__file__).resolve().parents[2] / "fuzz" / "corpus"
WIDTH, HEIGHT = 37, 23
_LIMITS = ImageLimits(max_pixels=2**18, max_bytes=2**20)
#: Larger masks only take longer.
_MAX_SIDE = 256


@dataclass(frozen=True, slots=True)
class Target:
    """read: gives a value or raises one of `errors`. seeds: good inputs."""

    read: Callable[[bytes], object]
    errors: tuple[type[OISError], ...]
    seeds: Sequence[bytes]


def _image(data: bytes) -> None:
    load_image(data, _LIMITS).pixels()


def _request(data: bytes) -> None:
    """What the front lets through is read as the server reads it."""
    try:
        request = service_pb2.ModelInferRequest.FromString(data)
    except DecodeError:
        return
    checked_message(request, shared_memory=False)
    tensors = {
        one.name: from_bytes(one.name, one.datatype, list(one.shape), content)
        for one, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in request.parameters.items()
    }
    call = wire.read_call(tensors, parameters, limits=_LIMITS)
    if call.picture is not None and call.objects:
        fit = Geometry.fit(call.picture.width, call.picture.height, longest=56, patch=14)
        call.click_request(fit)


def _json_request(data: bytes) -> None:
    """2 bytes with the length of the JSON, the JSON, and tensors."""
    end = 2 + int.from_bytes(data[:2], "big")
    written = checked_json(data[2:end], memoryview(data[end:]), shared_memory=False)
    assert json.loads(written)["inputs"] is not None


def _reply(data: bytes) -> None:
    length = int.from_bytes(data[:2], "big")
    tensors = http.tensors_of(data[2:], str(length))
    if "INFO" in tensors:
        wire.read_info(tensors)


def _info(data: bytes) -> None:
    wire.ReplyInfo.from_json(data)


def _coco(data: bytes) -> None:
    mask_of_coco(json_of(data), expected=(WIDTH, HEIGHT))


def _brush(data: bytes) -> None:
    mask_of_brush(list(data), WIDTH, HEIGHT)


def _cvat(data: bytes) -> None:
    mask_of_cvat(json_of(data), WIDTH, HEIGHT)


def _mask(data: bytes) -> None:
    if len(data) > 3:
        form = list(MaskFormat)[data[0] % len(MaskFormat)]
        mask = decode_mask(data[3:], form, 1 + data[1] % _MAX_SIDE, 1 + data[2] % _MAX_SIDE)
        assert mask.max(initial=0) <= 1


def json_of(data: bytes) -> object:
    """The document, or the text where it is no JSON: readers then get a value of a wrong type."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def _with_length(one: RawRequest) -> bytes:
    _, body, headers = one.http()
    return int(headers["Inference-Header-Content-Length"]).to_bytes(2, "big") + body


def _mask_of() -> object:
    import numpy as np

    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:15, 6:30] = 1
    mask[9:12, 11:15] = 0
    return mask


_MASK = _mask_of()
_REQUESTS = [
    RawRequest("", {}),
    RawRequest("", GOOD, {"ois_want": "depth"}, ("INFO", "MASKS")),
    RawRequest("", GOOD, {"ois_answer": "coarse"}, ("INFO", "MASKS")),
]
_MODEL = ModelInfo("tiny", 42, 14, PREPROCESS_VERSION, "a" * 64, True, "here")
_INFO_TEXT = wire.ReplyInfo(_MODEL, "0" * 64, WIDTH, HEIGHT).to_json().encode()

TARGETS = {
    "image": Target(_image, (InvalidInput,), good_files()),
    "message": Target(
        _request,
        (InvalidInput, IncompatibleServer),
        [one.message().SerializeToString() for one in _REQUESTS],
    ),
    "json": Target(_json_request, (InvalidInput,), [_with_length(one) for one in _REQUESTS]),
    "reply": Target(
        _reply,
        (IncompatibleServer,),
        [b'\x00\x4f{"outputs":[{"name":"MASK_SIZES","datatype":"INT64","shape":[1],"data":[4]}]} '],
    ),
    "info": Target(_info, (IncompatibleServer,), [_INFO_TEXT]),
    "coco": Target(
        _coco,
        (InvalidInput,),
        [json.dumps(coco_of_mask(_MASK, compressed=flag)).encode() for flag in (True, False)],  # type: ignore[arg-type]
    ),
    "brush": Target(_brush, (InvalidInput,), [bytes(brush_of_mask(_MASK))]),  # type: ignore[arg-type]
    "cvat": Target(_cvat, (InvalidInput,), [json.dumps(cvat_of_mask(_MASK)).encode()]),  # type: ignore[arg-type]
    "mask": Target(_mask, (InvalidInput,), [b"\0\x24\x16" + bytes(107)]),
}
