"""Which precision TensorRT really built, read from the engine inspector's JSON.

An fp32 graph quietly gives an fp32 engine whatever a user meant (roboflow/rf-detr 1453: an
"fp16" engine without one fp16 layer), so nothing is believed that was not inspected.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ois_client.contract.errors import ExportError
from ois_export.graphs.precision import Precision

#: How the inspector names types: 10.x within a layout ("Row major linear FP32"), 11.x alone.
_NAMES = {
    Precision.FP32: ("FP32", "FLOAT"),
    Precision.FP16: ("FP16", "HALF"),
    Precision.BF16: ("BF16", "BFLOAT16"),
}
#: Moves data only: says nothing about what multiplications are made in.
_MOVES = {"Reformat", "Cast", "NoOp", "Shape", "Constant", "Shuffle", "Slice", "Gather"}
#: Islands are fp32 even in a half engine, and count as many layers as TensorRT leaves them; an
#: engine that ignores its graph's types has none in half.
SMALLEST_HALF_SHARE = 0.1


def built_types(information: str) -> Counter[Precision]:
    """Number of computing layers by the lowest precision among what they read and write.

    information: JSON of `EngineInspector.get_engine_information`, of an engine built with
    detailed profiling verbosity. Raises `ExportError` when it holds no types.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise ExportError(
            "the engine inspector gave no JSON with layers; its format is not one that this "
            "version of ois knows (TensorRT 10.12 to 11.4)"
        ) from None
    found: Counter[Precision] = Counter()
    for layer in layers:
        if not isinstance(layer, dict):  # only its name: too little profiling verbosity
            continue
        if layer.get("LayerType") in _MOVES:
            continue
        tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
        types = {kind for tensor in tensors if (kind := _type(tensor)) is not None}
        for precision in (Precision.FP16, Precision.BF16, Precision.FP32):
            if precision in types:
                found[precision] += 1
                break
    if not found:
        raise ExportError(
            "the engine inspector names no layer's type, so the precision that was built is "
            "unknown; the engine must be built with detailed profiling verbosity"
        )
    return found


def check_precision(information: str, wanted: Precision, engine: str) -> dict[str, int]:
    """Raise `ExportError` unless the engine was built in `wanted`; returns the layers' counts."""
    found = built_types(information)
    half = sum(count for precision, count in found.items() if precision is not Precision.FP32)
    counts = {precision.value: count for precision, count in found.items()}
    shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    if wanted is Precision.FP32:
        wrong = half > 0
    else:
        enough = found[wanted] >= SMALLEST_HALF_SHARE * found.total()
        wrong = not enough or found[wanted] != half
    if wrong:
        raise ExportError(
            f"TensorRT did not build {engine} in {wanted}: of its computing layers, {shown}. "
            "Nothing was written"
        )
    return counts


def _type(tensor: Any) -> Precision | None:
    """The precision of one tensor of a layer; None for integers and what is not said."""
    if not isinstance(tensor, dict):
        return None
    said = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "").upper()
    words = said.replace("/", " ").split()
    for precision, names in _NAMES.items():
        if any(name in words for name in names):
            return precision
    return None
