"""A SAM-family pair of ONNX files whose masks are disks around the first click.

Real graphs for the real ONNX Runtime, with SAM's inputs and outputs, small enough to be made in a
test. The disk has a fixed radius in network pixels, so that its place on the photograph is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64  # of the encoder's input, in place of SAM's 1024
LOW = 256  # of the masks, as SAM has it
RADIUS = 12.0  # network pixels


def write_pair(folder: Path, *, predicted_iou: float = 0.95) -> tuple[Path, Path]:
    """encoder.onnx and decoder.onnx in `folder`."""
    encoder, decoder = folder / "encoder.onnx", folder / "decoder.onnx"
    onnx.save(_encoder(), str(encoder))
    onnx.save(_decoder(predicted_iou), str(decoder))
    return encoder, decoder


def _encoder() -> onnx.ModelProto:
    """The mean colour of the image, as features."""
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["input"], ["output"])],
        "encoder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    return _model(graph)


def _decoder(predicted_iou: float) -> onnx.ModelProto:
    """logits = radius - distance to the first click."""
    at = (np.arange(LOW, dtype=np.float32) + 0.5) * SIDE / LOW  # pixel centres
    place = np.stack(np.meshgrid(at, at), axis=-1)  # (LOW, LOW, 2) as (x, y)
    constants = {
        "place": place[None, None],
        "radius": np.array(RADIUS, np.float32),
        "first": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "axis": np.array([1], np.int64),
        "shape": np.array([1, 1, 1, 1, 2], np.int64),
        "last": np.array([-1], np.int64),
        "iou": np.array([[predicted_iou]], np.float32),
        "side": np.array(SIDE, np.float32),
        "half": np.array(0.5, np.float32),
        "square": np.array([1, 1, SIDE, SIDE], np.int64),
        "both": np.array([1, 1], np.int64),
        "start": np.array([0, 0], np.int64),
        "rows_columns": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["point_coords", "first", "one", "axis"], ["point"]),
        helper.make_node("Reshape", ["point", "shape"], ["centre"]),
        helper.make_node("Sub", ["place", "centre"], ["apart"]),
        helper.make_node("ReduceL2", ["apart", "last"], ["distance"], keepdims=0),
        helper.make_node("Sub", ["radius", "distance"], ["low_res_masks"]),
        helper.make_node("Identity", ["iou"], ["iou_predictions"]),
        # Enlarged as by SAM's export: to the network's size, without the padding, to the image's.
        helper.make_node("Resize", ["low_res_masks", "", "", "square"], ["padded"], mode="linear"),
        helper.make_node("ReduceMax", ["orig_im_size"], ["longest"], keepdims=0),
        helper.make_node("Div", ["side", "longest"], ["scale"]),
        helper.make_node("Mul", ["orig_im_size", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "half"], ["raised"]),
        helper.make_node("Cast", ["raised"], ["ends"], to=TensorProto.INT64),
        helper.make_node("Slice", ["padded", "start", "ends", "rows_columns"], ["cropped"]),
        helper.make_node("Cast", ["orig_im_size"], ["size"], to=TensorProto.INT64),
        helper.make_node("Concat", ["both", "size"], ["sizes"], axis=0),
        helper.make_node("Resize", ["cropped", "", "", "sizes"], ["masks"], mode="linear"),
    ]
    inputs = {
        "image_embeddings": [1, 3, 1, 1],
        "point_coords": [1, "points", 2],
        "point_labels": [1, "points"],
        "mask_input": [1, 1, LOW, LOW],
        "has_mask_input": [1],
        "orig_im_size": [2],
    }
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, 1, "h", "w"]),
            helper.make_tensor_value_info("iou_predictions", TensorProto.FLOAT, [1, 1]),
            helper.make_tensor_value_info("low_res_masks", TensorProto.FLOAT, [1, 1, LOW, LOW]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model
