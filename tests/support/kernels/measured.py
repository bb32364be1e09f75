"""Invented measurements of the kernels."""

from __future__ import annotations

import torch

from ois_network.kernels.choice import (
    Blocks,
    Measurement,
)
from ois_network.kernels.slots import (
    Call,
)


def measurement(objects: int, ratio: float, **changes: object) -> Measurement:
    fields = {"queries": 48, "channels": 256, "keys": 5329, "heads": 8, "dtype": torch.float16}
    call = Call(objects=objects, **(fields | changes))  # type: ignore[arg-type]
    return Measurement(call, 10 * ratio, 10, Blocks(64, 64, objects))
