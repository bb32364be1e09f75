"""Converts between arrays and Triton's binary tensors, which gRPC and HTTP share."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import IncompatibleServer
from ois_client.wire import INPUTS, OUTPUTS

_DTYPES = {spec.datatype: spec.dtype for spec in (*INPUTS.values(), *OUTPUTS.values())}


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
