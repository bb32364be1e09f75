"""Malformed requests to the six models besides `ois_segment`, as Hypothesis strategies.

Of these, clients can reach `ois_oneshot` alone. Each request has one fault, as in `malformed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from support.server.malformed import (
    DATATYPES,
    GOOD,
    GRID,
    HEIGHT,
    WIDTH,
    RawRequest,
    Tensor,
    bomb,
    image_tensor,
)
from support.tiny_engines import LONGEST, PATCH, TABLE

ROWS, COLUMNS = GRID
HIGH, WIDE = ROWS * PATCH, COLUMNS * PATCH  # the network's image, in pixels
SLOTS = 48

Draw = Callable[..., Any]
Inputs = dict[str, Tensor]


def array(datatype: str, values: Any) -> Tensor:
    kinds = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8, "BOOL": np.bool_}
    made = np.asarray(values, dtype=kinds[datatype])
    return Tensor(datatype, made.shape, made.tobytes())


def zeros(datatype: str, *shape: int) -> Tensor:
    return array(datatype, np.zeros(shape))


def decoder_inputs(objects: int) -> Inputs:
    return {
        "depth": zeros("FP32", 1, HIGH, WIDE),
        "depth_min": zeros("FP32", 1),
        "depth_max": zeros("FP32", 1),
        "position": zeros("FP32", 1, ROWS, COLUMNS),
        "points": zeros("FP32", objects, SLOTS, 2),
        "labels": zeros("INT32", objects, SLOTS),
        "coverage": zeros("UINT8", objects, ROWS, COLUMNS),
        "has_previous": zeros("BOOL", objects),
    }


def postprocess_inputs(objects: int, width: int, height: int) -> Inputs:
    return {"logits": zeros("FP32", objects, HIGH, WIDE), "SIZE": array("INT32", [width, height])}


_PICTURE = {"IMAGE": GOOD["IMAGE"], "IMAGE_SHAPE": zeros("INT32", 0)}
GOOD_INPUTS: dict[str, Inputs] = {
    "ois_encode": _PICTURE,
    "ois_oneshot": {
        **_PICTURE,
        "POINTS": GOOD["POINTS"],
        "LABELS": GOOD["LABELS"],
        "COVERAGE": zeros("UINT8", 1, ROWS, COLUMNS),
        "HAS_PREVIOUS": array("BOOL", [True]),
    },
    "ois_preprocess": {**_PICTURE, "POINTS": GOOD["POINTS"], "LABELS": GOOD["LABELS"]},
    "ois_postprocess": postprocess_inputs(1, WIDTH, HEIGHT),
    "ois_encoder": {
        "image": zeros("UINT8", HIGH, WIDE, 3),
        "pos_rows": zeros("FP32", ROWS, TABLE),
        "pos_cols": zeros("FP32", COLUMNS, TABLE),
    },
    "ois_decoder": decoder_inputs(1),
}
models = st.sampled_from(sorted(GOOD_INPUTS))
with_pictures = st.sampled_from(["ois_encode", "ois_oneshot", "ois_preprocess"])
with_clicks = st.sampled_from(["ois_oneshot", "ois_preprocess"])


@st.composite
def wrong_tensor(draw: Draw) -> RawRequest:
    """An input of a wrong type, length or shape, or an unknown input."""
    model = draw(models)
    good = GOOD_INPUTS[model]
    name = draw(st.sampled_from(sorted(good.keys() - {"IMAGE_SHAPE"})))
    one = good[name]
    kind = draw(st.sampled_from(["type", "length", "shape", "unknown"]))
    inputs = dict(good)
    if kind == "type":
        other = st.sampled_from([each for each in DATATYPES if each != one.datatype])
        inputs[name] = replace(one, datatype=draw(other))
    elif kind == "length":
        inputs[name] = replace(one, data=one.data + bytes(draw(st.integers(1, 100))))
    elif kind == "shape":
        side = draw(st.sampled_from([-1, 2**31, 2**40, 2**62]))
        inputs[name] = replace(one, shape=(*one.shape[:-1], side))
    else:
        inputs["what"] = one
    return RawRequest(f"{model}: {kind} of {name}", inputs, model=model)


@st.composite
def missing_tensor(draw: Draw) -> RawRequest:
    model = draw(models)
    optional = {"IMAGE_SHAPE"} if model == "ois_preprocess" else set()
    name = draw(st.sampled_from(sorted(GOOD_INPUTS[model].keys() - optional)))
    inputs = {key: value for key, value in GOOD_INPUTS[model].items() if key != name}
    return RawRequest(f"{model}: no {name}", inputs, model=model)


@st.composite
def wrong_picture(draw: Draw) -> RawRequest:
    model = draw(with_pictures)
    noise = st.binary(max_size=60)
    sides = st.integers(9000, 2**31 - 1)
    data = draw(noise | st.tuples(sides, sides).map(lambda size: bomb(*size)))
    inputs = {**GOOD_INPUTS[model], "IMAGE": image_tensor(data)}
    return RawRequest(f"{model}: a picture of {len(data)} bytes", inputs, model=model)


@st.composite
def wrong_clicks(draw: Draw) -> RawRequest:
    model = draw(with_clicks)
    count, most = draw(
        st.tuples(st.integers(33, 400), st.just(1)) | st.tuples(st.just(1), st.integers(49, 400))
    )
    points, label = (1.0, 1.0), 1
    if draw(st.booleans()):
        count, most = 1, 1
        points = draw(st.sampled_from([(np.nan, 1.0), (1.0, -2.0), (WIDTH + 1.0, 1.0)]))
    inputs = {
        **GOOD_INPUTS[model],
        "POINTS": array("FP32", np.broadcast_to(points, (count, most, 2))),
        "LABELS": array("INT32", np.full((count, most), label)),
    }
    return RawRequest(f"{model}: {count} objects, {most} clicks at {points}", inputs, model=model)


@st.composite
def wrong_size(draw: Draw) -> RawRequest:
    """A size that does not fit the logits, or that would make masks of gigabytes."""
    scale = draw(st.integers(90, 19_000_000))  # of this image's proportions: 4 to 3
    huge = st.just((4 * scale, 3 * scale)).filter(lambda size: size[0] * size[1] > 2**26)
    other = st.sampled_from([(HEIGHT, WIDTH), (1, 1), (2**31 - 1, 1), (50_000, 50_000)])
    none = st.tuples(st.integers(-(2**31), 0), st.integers(-(2**31), 2**31 - 1))
    width, height = draw(other | none | none.map(lambda size: size[::-1]) | huge)
    inputs = postprocess_inputs(draw(st.integers(1, 32)), width, height)
    return RawRequest(f"ois_postprocess: SIZE {width}x{height}", inputs, model="ois_postprocess")


@st.composite
def too_many_objects(draw: Draw) -> RawRequest:
    count = draw(st.just(0) | st.integers(33, 300))
    inputs, model = draw(
        st.sampled_from(
            [
                (postprocess_inputs(count, WIDTH, HEIGHT), "ois_postprocess"),
                (decoder_inputs(count), "ois_decoder"),
            ]
        )
    )
    return RawRequest(f"{model}: {count} objects", inputs, model=model)


@st.composite
def too_large_a_network_image(draw: Draw) -> RawRequest:
    high, wide = draw(st.sampled_from([(LONGEST + 1, WIDE), (HIGH, 900), (600, 600)]))
    if draw(st.booleans()):
        inputs = {**GOOD_INPUTS["ois_encoder"], "image": zeros("UINT8", high, wide, 3)}
        return RawRequest(f"ois_encoder: {high}x{wide}", inputs, model="ois_encoder")
    inputs = {**decoder_inputs(1), "depth": zeros("FP32", 1, high, wide)}
    return RawRequest(f"ois_decoder: {high}x{wide}", inputs, model="ois_decoder")


@st.composite
def other_positions(draw: Draw) -> RawRequest:
    """Position tables for another patch grid than the image's."""
    name = draw(st.sampled_from(["pos_rows", "pos_cols"]))
    length = draw(st.integers(5, 1024))
    inputs = {**GOOD_INPUTS["ois_encoder"], name: zeros("FP32", length, TABLE)}
    return RawRequest(f"ois_encoder: {name} of {length}", inputs, model="ois_encoder")


malformed_for_models = st.one_of(
    wrong_tensor(),
    missing_tensor(),
    wrong_picture(),
    wrong_clicks(),
    wrong_size(),
    too_many_objects(),
    too_large_a_network_image(),
    other_positions(),
)
