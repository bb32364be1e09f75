"""The wire format: names, types and shapes of all tensors, parameters and headers.

    request   DIGEST       BYTES [1]          sha256 of the picture (`Picture.digest`)
              IMAGE        UINT8 [bytes]      the picture: an encoded file, or raw samples
              IMAGE_SHAPE  INT32 [3]          only with raw samples: (H, W, C), C = 1 or 3
              POINTS       FP32  [N, P, 2]    (x, y) in image pixels
              LABELS       INT32 [N, P]       1 positive, 0 negative, -1 no click
              COVERAGE     UINT8 [N, gh, gw]  of the previous masks
              HAS_PREVIOUS BOOL  [N]
    reply     INFO         UINT8 [bytes]      JSON in UTF-8, see `ReplyInfo`
              MASKS        UINT8 [bytes]      N encoded masks, concatenated
              MASK_SIZES   INT64 [N]          bytes of each mask
              NEW_COVERAGE UINT8 [N, gh, gw]  of the new masks; a coarse answer has none
              DEPTH        FP32  [h, w]       on request
              LOGITS       FP32  [N, h, w]    on request
              ORDER        FP32  [K, h, w]    on request, see `ClickReply.order`

Every input is optional. Without POINTS the image is only encoded. With no input at all the server
only describes itself. Outputs that do not apply are missing from the reply. Parameters of a
request:

    ois_contract     "1"; any other number is refused
    ois_mask_format  packed (default), png, coco_rle, coco_counts
    ois_want         comma-separated list of depth, logits, order
    ois_session      an opaque id for the server's log
    ois_region       auto or full: whether only where the mask can change may be decoded. Without it
                     the server decides, and decodes everything if the logits are wanted
    ois_answer       full (default) or coarse: a rough mask to show until the full one is there

Two headers accompany a request: `ois-image-digest`, by which a load balancer can send an image's
clicks to the replica that holds its features, and `authorization` with the token, if the server
requires one.

The stateless model `ois_oneshot` has the same inputs except DIGEST, and the outputs INFO, MASKS,
MASK_SIZES and NEW_COVERAGE. It is an ensemble, which has no optional inputs in Triton: an empty
tensor means that the input is absent. It needs IMAGE, POINTS and LABELS, and refuses `ois_want` and
coarse answers.

BYTES tensors are object arrays of `bytes`, as in Triton's Python packages. Errors travel as text,
see `errors.py`.

No output is of type BYTES and none is empty: Triton 2.51 crashes if a client asks for the
`classification` of such an output, which takes 75 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.masks import MaskFormat

MODEL = "ois_segment"
#: The stateless ensemble: an image and clicks in one request, nothing is stored.
ONESHOT_MODEL = "ois_oneshot"
CONTRACT = 1

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class WireTensor:
    """One input or output: Triton's datatype, NumPy's dtype, dims in config.pbtxt (-1: any)."""

    datatype: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]


def _tensor(datatype: str, dtype: Any, *dims: int) -> WireTensor:
    return WireTensor(datatype, np.dtype(dtype), dims)


INPUTS: Mapping[str, WireTensor] = {
    "DIGEST": _tensor("BYTES", np.object_, 1),
    "IMAGE": _tensor("UINT8", np.uint8, -1),
    "IMAGE_SHAPE": _tensor("INT32", np.int32, -1),
    "POINTS": _tensor("FP32", np.float32, -1, -1, 2),
    "LABELS": _tensor("INT32", np.int32, -1, -1),
    "COVERAGE": _tensor("UINT8", np.uint8, -1, -1, -1),
    "HAS_PREVIOUS": _tensor("BOOL", np.bool_, -1),
}
OUTPUTS: Mapping[str, WireTensor] = {
    "INFO": _tensor("UINT8", np.uint8, -1),
    "MASKS": _tensor("UINT8", np.uint8, -1),
    "MASK_SIZES": _tensor("INT64", np.int64, -1),
    "NEW_COVERAGE": _tensor("UINT8", np.uint8, -1, -1, -1),
    "DEPTH": _tensor("FP32", np.float32, -1, -1),
    "LOGITS": _tensor("FP32", np.float32, -1, -1, -1),
    "ORDER": _tensor("FP32", np.float32, -1, -1, -1),
}

_DTYPES = {spec.datatype: spec.dtype for spec in (*INPUTS.values(), *OUTPUTS.values())}

#: The inputs of `ois_oneshot`. All are sent; one that does not apply is empty.
ONESHOT_INPUTS = tuple(name for name in INPUTS if name != "DIGEST")

WANTS = ("depth", "logits", "order")
#: HTTP header or gRPC metadata key with the digest. A load balancer picks the replica by it.
DIGEST_HEADER = "ois-image-digest"
#: HTTP header or gRPC metadata key with the token, without a prefix.
TOKEN_HEADER = "authorization"

PARAMETERS = (
    "ois_contract",
    "ois_mask_format",
    "ois_want",
    "ois_session",
    "ois_region",
    "ois_answer",
)


def mask_format_name(form: MaskFormat) -> str:
    """The name of `form` in the parameter `ois_mask_format`."""
    return form.name.lower()


def check_tensor(known: Mapping[str, WireTensor], name: str, array: NDArray[Any]) -> None:
    """Raise `InvalidInput` unless `array` has the type and dims that `known` gives for `name`."""
    spec = known.get(name)
    if spec is None:
        raise InvalidInput(f"got the unknown tensor {name[:80]!r}; expected one of {[*known]}")
    fits = array.ndim == len(spec.dims) and all(
        wanted in (-1, side) for wanted, side in zip(spec.dims, array.shape, strict=True)
    )
    if not fits or array.dtype != spec.dtype:
        raise InvalidInput(
            f"got {name} of shape {array.shape} and type {array.dtype}; expected "
            f"{spec.datatype} {list(spec.dims)} (-1: any)"
        )


def empty_tensor(spec: WireTensor) -> NDArray[Any]:
    """A tensor without elements."""
    return np.zeros([max(0, side) for side in spec.dims], dtype=spec.dtype)


def bytes_tensor(text: str) -> NDArray[Any]:
    """A BYTES tensor with one element."""
    return np.array([text.encode()], dtype=np.object_)


def text_of(array: NDArray[Any]) -> str:
    """The only element of a checked BYTES tensor. (It is a `str` in JSON requests.)"""
    value = array[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def to_bytes(array: NDArray[Any]) -> bytes:
    """Return little-endian, row-major bytes. Each element of a BYTES tensor follows its length."""
    if array.dtype == np.object_:
        return b"".join(struct.pack("<I", len(value)) + value for value in array.ravel())
    return array.tobytes()


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: bytes) -> NDArray[Any]:
    """Return the array in `data`, read-only.

    Raises `IncompatibleServer` if the type is unknown or the size does not match the shape.
    """
    dtype = _DTYPES.get(datatype)
    try:
        if dtype is None:
            raise ValueError("unknown type")
        if dtype == np.object_:
            return np.array(_elements(data), dtype=np.object_).reshape(shape)
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    except (ValueError, struct.error) as error:
        raise IncompatibleServer(
            f"the server answered with {name} as {datatype} {list(shape)} in {len(data)} bytes, "
            f"which do not match ({error})"
        ) from error


def _elements(data: bytes) -> list[bytes]:
    elements, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        if start > len(data):
            raise ValueError("an element is longer than the data")
        elements.append(data[start - length : start])
    return elements
