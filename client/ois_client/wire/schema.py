"""The names, types and shapes of the wire's tensors and parameters (see `wire.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import MaskFormat

MODEL = "ois_segment"
CONTRACT = 1

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class WireTensor:
    """One input or output: Triton's datatype, NumPy's, and the dims of its config (-1 free)."""

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
    "INFO": _tensor("BYTES", np.object_, 1),
    "MASKS": _tensor("UINT8", np.uint8, -1),
    "MASK_SIZES": _tensor("INT64", np.int64, -1),
    "NEW_COVERAGE": _tensor("UINT8", np.uint8, -1, -1, -1),
    "DEPTH": _tensor("FP32", np.float32, -1, -1),
    "LOGITS": _tensor("FP32", np.float32, -1, -1, -1),
    "ORDER": _tensor("FP32", np.float32, -1, -1, -1),
}

WANTS = ("depth", "logits", "order")
#: Header (gRPC: metadata) with the digest: replicas are chosen by it, so that each caches its own.
DIGEST_HEADER = "ois-image-digest"
#: Header with the token, as it is.
TOKEN_HEADER = "authorization"

PARAMETERS = ("ois_contract", "ois_mask_format", "ois_want", "ois_session")


def mask_format_name(form: MaskFormat) -> str:
    """The format's name in `ois_mask_format`."""
    return form.name.lower()


def check_tensor(known: Mapping[str, WireTensor], name: str, array: NDArray[Any]) -> None:
    """Raise `InvalidInput` unless `array` has the type and rank of the tensor called `name`."""
    spec = known.get(name)
    if spec is None:
        raise InvalidInput(f"got the unknown tensor {name[:80]!r}; expected some of {[*known]}")
    fits = array.ndim == len(spec.dims) and all(
        wanted in (-1, side) for wanted, side in zip(spec.dims, array.shape, strict=True)
    )
    if not fits or array.dtype != spec.dtype:
        raise InvalidInput(
            f"got {name} of shape {array.shape} and type {array.dtype}; expected "
            f"{spec.datatype} {list(spec.dims)} (-1: any)"
        )


def bytes_tensor(text: str) -> NDArray[Any]:
    """A BYTES tensor of one element."""
    return np.array([text.encode()], dtype=np.object_)


def text_of(array: NDArray[Any]) -> str:
    """The one element of a checked BYTES tensor (JSON requests arrive as `str`)."""
    value = array[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
