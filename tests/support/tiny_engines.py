"""A tiny engine pair for tests, with all inputs and outputs and masks that are easy to check.

depth    the mean of the colour channels, so a brighter pixel is nearer
logits   radius - distance to the mean of the positive clicks, in network pixels, where
         radius = 12 - 2 * (negative clicks) + 6 * (mean coverage of the previous mask, 0..1)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ois_client.contract.geometry import PREPROCESS_VERSION
from ois_runtime.engines.manifest import EngineFile, Manifest, RegionParts, TensorSpec

LONGEST = 56
PATCH = 14
TABLE = 5

ENCODER = """
<ir_version: 10, opset_import: ["": 18]>
encoder (uint8[h, w, 3] image, float[gh, t] pos_rows, float[gw, t] pos_cols)
    => (float[1, h, w] depth, float[1] depth_min, float[1] depth_max, float[1, gh, gw] position)
{
    axis_0 = Constant<value_ints = [0]>()
    axis_2 = Constant<value_ints = [2]>()
    axes_12 = Constant<value_ints = [1, 2]>()
    pixels = Cast<to = 1>(image)
    grey = ReduceMean<keepdims = 0>(pixels, axis_2)
    depth = Unsqueeze(grey, axis_0)
    depth_min = ReduceMin<keepdims = 0>(depth, axes_12)
    depth_max = ReduceMax<keepdims = 0>(depth, axes_12)
    pos_cols_t = Transpose(pos_cols)
    table = MatMul(pos_rows, pos_cols_t)
    position = Unsqueeze(table, axis_0)
}
"""

#: The centre of the positive clicks, and their number.
_CENTRE = """
    axis_1 = Constant<value_ints = [1]>()
    axis_2 = Constant<value_ints = [2]>()
    axes_12 = Constant<value_ints = [1, 2]>()
    axes_24 = Constant<value_ints = [2, 4]>()
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    first_slot = Constant<value_float = 1.0>()

    positive_label = Constant<value = int32 {1}>()
    negative_label = Constant<value = int32 {0}>()
    is_positive = Equal(labels, positive_label)
    is_negative = Equal(labels, negative_label)
    positive = Cast<to = 1>(is_positive)
    negative = Cast<to = 1>(is_negative)
    positives = ReduceSum(positive, axis_1)
    negatives = ReduceSum(negative, axis_1)
    at_least_one = Max(positives, first_slot)
    weight = Unsqueeze(positive, axis_2)
    weighted = Mul(points, weight)
    total = ReduceSum<keepdims = 0>(weighted, axis_1)
    centre = Div(total, at_least_one)
    centre_x, centre_y = Split<axis = 1, num_outputs = 2>(centre)
    centre_x3 = Unsqueeze(centre_x, axis_2)
    centre_y3 = Unsqueeze(centre_y, axis_2)
"""

#: The distance of each pixel to it, and the radius.
_DISTANCE = """
    ys = Unsqueeze(ys_flat, axis_1)
    dx = Sub(xs, centre_x3)
    dy = Sub(ys, centre_y3)
    dx2 = Mul(dx, dx)
    dy2 = Mul(dy, dy)
    square = Add(dx2, dy2)
    distance = Sqrt(square)

    base = Constant<value_float = 12.0>()
    shrink = Constant<value_float = 2.0>()
    grow = Constant<value_float = 0.0235294122>()
    share = Cast<to = 1>(coverage)
    mean_share = ReduceMean<keepdims = 0>(share, axes_12)
    previous = Cast<to = 1>(has_previous)
    seen = Mul(mean_share, previous)
    plus_flat = Mul(seen, grow)
    plus = Unsqueeze(plus_flat, axis_1)
    minus = Mul(negatives, shrink)
    smaller = Sub(base, minus)
    radius = Add(smaller, plus)
    radius3 = Unsqueeze(radius, axis_2)
"""

DECODER = (
    """
<ir_version: 10, opset_import: ["": 18]>
decoder (float[1, h, w] depth, float[1] depth_min, float[1] depth_max,
         float[1, gh, gw] position, float[n, 48, 2] points, int32[n, 48] labels,
         uint8[n, gh, gw] coverage, bool[n] has_previous)
    => (float[n, h, w] logits, uint8[n, gh, gw] new_coverage)
{
"""
    + _CENTRE
    + """
    height = Shape<start = 1, end = 2>(depth)
    width = Shape<start = 2, end = 3>(depth)
    height0 = Squeeze(height)
    width0 = Squeeze(width)
    ys_int = Range(zero, height0, one)
    xs_int = Range(zero, width0, one)
    ys_flat = Cast<to = 1>(ys_int)
    xs = Cast<to = 1>(xs_int)
"""
    + _DISTANCE
    + """
    logits = Sub(radius3, distance)

    nothing = Constant<value_float = 0.0>()
    inside = Greater(logits, nothing)
    inside_f = Cast<to = 1>(inside)
    patch = Constant<value_ints = [14]>()
    batch = Shape<start = 0, end = 1>(labels)
    rows = Div(height, patch)
    columns = Div(width, patch)
    blocks = Concat<axis = 0>(batch, rows, patch, columns, patch)
    blocked = Reshape(inside_f, blocks)
    count = ReduceSum<keepdims = 0>(blocked, axes_24)
    per_pixel = Constant<value_float = 255.0>()
    pixels = Constant<value_float = 196.0>()
    scaled = Mul(count, per_pixel)
    share_out = Div(scaled, pixels)
    whole = Floor(share_out)
    new_coverage = Cast<to = 2>(whole)
}
"""
)

#: The decoder in parts: the same logits at the centres of 4x4 cells per patch, then enlarged.
TRUNK = (
    """
<ir_version: 10, opset_import: ["": 18]>
trunk (float[1, gh, gw] position, float[n, 48, 2] points, int32[n, 48] labels,
       uint8[n, gh, gw] coverage, bool[n] has_previous)
    => (float[n, 1, rows, columns] path, float[n, rows, columns] coarse)
{
"""
    + _CENTRE
    + """
    patch_rows = Shape<start = 1, end = 2>(position)
    patch_columns = Shape<start = 2, end = 3>(position)
    cells = Constant<value = int64 {4}>()
    patch_rows0 = Squeeze(patch_rows)
    patch_columns0 = Squeeze(patch_columns)
    rows0 = Mul(patch_rows0, cells)
    columns0 = Mul(patch_columns0, cells)
    ys_int = Range(zero, rows0, one)
    xs_int = Range(zero, columns0, one)
    ys_cell = Cast<to = 1>(ys_int)
    xs_cell = Cast<to = 1>(xs_int)
    side = Constant<value_float = 3.5>()
    middle = Constant<value_float = 1.25>()
    ys_scaled = Mul(ys_cell, side)
    xs_scaled = Mul(xs_cell, side)
    ys_flat = Add(ys_scaled, middle)
    xs = Add(xs_scaled, middle)
"""
    + _DISTANCE
    + """
    coarse = Sub(radius3, distance)
    path = Unsqueeze(coarse, axis_1)
}
"""
)

TAIL = """
<ir_version: 10, opset_import: ["": 18]>
tail (float[n, 1, rows, columns] path) => (float[n, h, w] logits)
{
    to_eight = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
    to_output = Constant<value_floats = [1.0, 1.0, 1.75, 1.75]>()
    eight = Resize<mode = "linear">(path, , to_eight)
    output = Resize<mode = "linear">(eight, , to_output)
    axis_1 = Constant<value_ints = [1]>()
    logits = Squeeze(output, axis_1)
}
"""

CROP = (
    """
<ir_version: 10, opset_import: ["": 18]>
crop (float[n, 1, rows, columns] path,
      float[r8, m8, k8] rows8, int64[r8, k8] rows8_from,
      float[c8, m8, k8] columns8, int64[c8, k8] columns8_from,
      float[ro, mo, ko] rows_out, int64[ro, ko] rows_out_from,
      float[co, mo, ko] columns_out, int64[co, ko] columns_out_from)
    => (float[n, h, w] logits)
{
    joined = Constant<value_ints = [0, 0, -1]>()
    axis_1 = Constant<value_ints = [1]>()
    picture = Squeeze(path, axis_1)
"""
    + "".join(
        f"""
    cells{n} = Gather<axis = 1>({source}, {name}_from)
    tiles{n} = MatMul({name}, cells{n})
    lines{n} = Transpose<perm = [0, 3, 1, 2]>(tiles{n})
    {result} = Reshape(lines{n}, joined)
"""
        for n, (source, name, result) in enumerate(
            [
                ("picture", "rows8", "tall"),
                ("tall", "columns8", "eight"),
                ("eight", "rows_out", "taller"),
                ("taller", "columns_out", "logits"),
            ]
        )
    )
    + """
}
"""
)


def disk_logits(
    centre: tuple[float, float], shape: tuple[int, int], radius: float
) -> NDArray[np.float32]:
    """The logits that the decoder computes, (h, w). centre: (x, y) in network pixels."""
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    return (radius - np.hypot(xs - centre[0], ys - centre[1])).astype(np.float32)


def write_engines(folder: Path, **changes: object) -> Path:
    """Write the pair with its manifest into `folder`; `changes` replace manifest fields."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = {"encoder": ENCODER, "decoder": DECODER}  # here, because a test may replace them
    files = {role: _write(folder, role, text) for role, text in pair.items()}
    fields: dict[str, object] = {
        "name": "tiny-test",
        "target": "cpu",
        "precision": "fp32",
        "network": {"embed_dim": 1},
        "trained": False,
        "checkpoint_sha256": "0" * 64,
        "longest": LONGEST,
        "patch": PATCH,
        "position_table": TABLE,
        "preprocess_version": PREPROCESS_VERSION,
        "opset": 18,
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"onnx": onnx.__version__},
        **files,
        **changes,
    }
    Manifest(**fields).save(folder)  # type: ignore[arg-type]
    return folder


def write_region_engines(folder: Path, **changes: object) -> Path:
    """`write_engines`, with a decoder in parts that is used for clicks."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {role: _write(folder, role, text) for role, text in _PARTS.items()}
    region = RegionParts(
        **parts,
        stride=1,
        aligned=False,
        detail=None,
        keep_clicks=True,
        threshold=-1.0,
        coarse=(0.0, 0.0, 0.0),
        accepted=True,
    )
    return write_engines(folder, region=region, **changes)


_PARTS = {"trunk": TRUNK, "tail": TAIL, "crop": CROP}


def _write(folder: Path, role: str, text: str) -> EngineFile:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    path = folder / f"{role}.onnx"
    path.write_bytes(model.SerializeToString())
    return EngineFile.of(path, _specs(model.graph.input), _specs(model.graph.output))


def _specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    def dtype(value: onnx.ValueInfoProto) -> str:
        return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))

    return tuple(
        TensorSpec(
            value.name,
            dtype(value),
            tuple(side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim),
        )
        for value in values
    )
