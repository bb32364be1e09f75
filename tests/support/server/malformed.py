"""Malformed requests to `ois_segment`, as Hypothesis strategies.

Each is a good click with one fault, which its description names. They are gRPC messages built by
hand, so that shapes can contradict the data and types need not exist.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from tritonclient.grpc import service_pb2

from ois_client.contract.masks import MaskFormat
from ois_client.wire import CONTRACT, INPUTS, MODEL, PARAMETERS, mask_format_name

WIDTH, HEIGHT = 112, 84
GRID = (3, 4)  # patch grid (rows, columns) of this image in the tiny network
DIGEST = "0" * 64  # not the digest of any image

DATATYPES = ("BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "WHAT")


@dataclass(frozen=True, slots=True)
class Tensor:
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class RawRequest:
    """A request as raw tensors. description: its fault, for failure messages.

    output_parameters: of each of `outputs`.
    """

    description: str
    inputs: dict[str, Tensor]
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    model: str = MODEL
    version: str = ""
    output_parameters: dict[str, Any] = field(default_factory=dict)

    def message(self) -> Any:
        request = service_pb2.ModelInferRequest(model_name=self.model, model_version=self.version)
        for name, tensor in self.inputs.items():
            item = request.inputs.add(name=name, datatype=tensor.datatype)
            item.shape.extend(tensor.shape)
            request.raw_input_contents.append(tensor.data)
        for name in self.outputs:
            _set(request.outputs.add(name=name).parameters, self.output_parameters)
        _set(request.parameters, self.parameters)
        return request

    def http(self) -> tuple[str, bytes, dict[str, str]]:
        """The same request over HTTP: path, body and headers."""
        inputs = [
            {
                "name": name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(tensor.data)},
            }
            for name, tensor in self.inputs.items()
        ]
        outputs = [{"name": name, "parameters": self.output_parameters} for name in self.outputs]
        request = {"inputs": inputs, "outputs": outputs, "parameters": self.parameters}
        text = json.dumps(
            {name: value for name, value in request.items() if value or name == "inputs"}
        )
        version = f"/versions/{self.version}" if self.version else ""
        return (
            f"/v2/models/{self.model}{version}/infer",
            b"".join([text.encode(), *(tensor.data for tensor in self.inputs.values())]),
            {
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(len(text.encode())),
            },
        )


def _set(parameters: Any, values: dict[str, Any]) -> None:
    kind = {bool: "bool_param", int: "int64_param", float: "double_param"}
    for name, value in values.items():
        setattr(parameters[name], kind.get(type(value), "string_param"), value)


def tensor(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    return Tensor(INPUTS[name].datatype, array.shape, array.astype(INPUTS[name].dtype).tobytes())


def text_tensor(text: bytes) -> Tensor:
    return Tensor("BYTES", (1,), struct.pack("<I", len(text)) + text)


def image_tensor(data: bytes) -> Tensor:
    return Tensor("UINT8", (len(data),), data)


def encoded(form: str = "png") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


PNG, JPEG = encoded("png"), encoded("jpeg")


def click_on(points: Any = ((40.0, 40.0),), labels: Any = (1,)) -> dict[str, Tensor]:
    """The inputs of a complete request: the image and a first click on it."""
    return {
        "IMAGE": image_tensor(PNG),
        "POINTS": tensor("POINTS", np.array([points], np.float32)),
        "LABELS": tensor("LABELS", np.array([labels])),
    }


GOOD = click_on()

# -- faults ------------------------------------------------------------------------------------

Draw = Callable[..., Any]
sides = st.integers(-3, 6) | st.sampled_from([-1, 0, 2**31, 2**40, 2**62, 2**63 - 1])
names = st.sampled_from(sorted(GOOD))


@st.composite
def lying_shape(draw: Draw) -> RawRequest:
    """A shape that contradicts the data."""
    name = draw(names)
    good = GOOD[name]
    shape = tuple(draw(st.lists(sides, max_size=5)))
    if np.prod([float(side) for side in shape]) == np.prod(good.shape):
        shape = (*shape, 3)
    return RawRequest(f"{name} of shape {shape}", {**GOOD, name: replace(good, shape=shape)})


@st.composite
def wrong_type(draw: Draw) -> RawRequest:
    name = draw(names)
    datatype = draw(st.sampled_from([d for d in DATATYPES if d != GOOD[name].datatype]))
    wrong = replace(GOOD[name], datatype=datatype)
    return RawRequest(f"{name} as {datatype}", {**GOOD, name: wrong})


@st.composite
def wrong_length(draw: Draw) -> RawRequest:
    """Too few or too many bytes."""
    name = draw(names)
    data = GOOD[name].data
    cut = draw(st.integers(1, len(data)))
    data = data[:-cut] if draw(st.booleans()) else data + bytes(cut)
    return RawRequest(
        f"{name} in {len(data)} bytes", {**GOOD, name: replace(GOOD[name], data=data)}
    )


@st.composite
def wrong_rank(draw: Draw) -> RawRequest:
    """The right number of bytes in a wrong shape."""
    points = draw(
        st.sampled_from([(1, 1, 1, 2), (1, 2), (2,), (1, 1, 2, 1), (2, 1, 1), (1, 2, 1), ()])
    )
    wrong = replace(GOOD["POINTS"], shape=points)
    return RawRequest(f"POINTS of shape {points}", {**GOOD, "POINTS": wrong})


@st.composite
def click_outside(draw: Draw) -> RawRequest:
    bad = st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -0.51, WIDTH, 1e9]) | st.floats(
        WIDTH, 2.0**100, width=32
    )
    point = draw(st.tuples(bad, st.floats(0, HEIGHT - 1, width=32)))
    point = draw(st.permutations(point))
    if 0 <= point[0] <= WIDTH - 1 and 0 <= point[1] <= HEIGHT - 1:
        point = (np.nan, 1)
    return RawRequest(f"a click at {point}", click_on([point]))


@st.composite
def wrong_label(draw: Draw) -> RawRequest:
    label = draw(st.integers(-(2**31), 2**31 - 1).filter(lambda n: n not in (-1, 0, 1)))
    return RawRequest(f"the label {label}", click_on([(1, 1)], [label]))


@st.composite
def too_much(draw: Draw) -> RawRequest:
    """Too many objects, clicks or slots, or none."""
    kind = draw(st.sampled_from(["objects", "slots", "positive", "negative", "none", "empty"]))
    count, most, label = {
        "objects": (draw(st.integers(33, 3000)), 1, 1),
        "slots": (1, draw(st.integers(49, 5000)), 1),
        "positive": (1, draw(st.integers(25, 48)), 1),
        "negative": (1, draw(st.integers(25, 48)), 0),
        "none": (draw(st.integers(1, 32)), draw(st.integers(1, 48)), -1),
        "empty": draw(st.sampled_from([(0, 1, 1), (1, 0, 1), (0, 0, 1)])),
    }[kind]
    inputs = {
        "IMAGE": GOOD["IMAGE"],
        "POINTS": tensor("POINTS", np.ones((count, most, 2))),
        "LABELS": tensor("LABELS", np.full((count, most), label)),
    }
    return RawRequest(f"{count} objects of {most} clicks with label {label}", inputs)


@st.composite
def wrong_coverage(draw: Draw) -> RawRequest:
    kind = draw(st.sampled_from(["grid", "count", "alone", "previous alone", "previous count"]))
    grid = draw(st.tuples(st.integers(0, 90), st.integers(0, 90)).filter(lambda g: g != GRID))
    count = draw(st.integers(2, 50))
    coverage = {"grid": (1, *grid), "count": (count, *GRID)}.get(kind, (1, *GRID))
    inputs = {**GOOD, "COVERAGE": tensor("COVERAGE", np.zeros(coverage))}
    if kind != "alone":
        previous = count if kind == "previous count" else 1
        inputs["HAS_PREVIOUS"] = tensor("HAS_PREVIOUS", np.ones(previous))
    if kind == "previous alone":
        del inputs["COVERAGE"]
    return RawRequest(f"coverage: {kind} {coverage}", inputs)


@st.composite
def wrong_digest(draw: Draw) -> RawRequest:
    text = draw(
        st.sampled_from([DIGEST.encode(), b"", b"../../etc/passwd", b"A" * 64, b"\xff" * 64])
        | st.binary(max_size=80)
    )
    inputs = dict(GOOD)
    if draw(st.booleans()):
        del inputs["IMAGE"]  # then the server has never got the image
    return RawRequest(f"DIGEST {text!r}", {**inputs, "DIGEST": text_tensor(text)})


@st.composite
def wrong_image(draw: Draw) -> RawRequest:
    """Bytes that are truncated or not an image."""
    kind = draw(st.sampled_from(["cut png", "cut jpeg", "noise", "magic", "bomb", "tiff", "webp"]))
    noise = draw(st.binary(max_size=60))
    if kind == "bomb":
        data = bomb(*draw(st.tuples(st.integers(9000, 2**31 - 1), st.integers(9000, 2**31 - 1))))
    elif kind.startswith("cut"):
        data = PNG if kind == "cut png" else JPEG
        data = data[: draw(st.integers(0, len(data) // 2))]
    elif kind == "magic":
        magic = st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"P6 "])
        data = draw(magic) + noise
    elif kind == "tiff":
        data = draw(st.sampled_from([b"II*\x00", b"MM\x00*", b"II+\x00"])) + noise
    elif kind == "webp":
        data = b"RIFF" + struct.pack("<I", 4 + len(noise)) + b"WEBP" + noise
    else:
        data = noise
    return RawRequest(f"an image: {kind}", {**GOOD, "IMAGE": image_tensor(data)})


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces gigabytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@st.composite
def wrong_raw_shape(draw: Draw) -> RawRequest:
    shape = draw(
        st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)
        | st.lists(st.sampled_from([0, 1, 3, 4, 84, 112, 65536]), min_size=3, max_size=3)
    )
    if np.prod([float(side) for side in shape]) == WIDTH * HEIGHT * 3:
        shape = [*shape, 1]
    inputs = {
        **GOOD,
        "IMAGE": image_tensor(bytes(WIDTH * HEIGHT * 3)),
        "IMAGE_SHAPE": tensor("IMAGE_SHAPE", np.array(shape, np.int32)),
    }
    if draw(st.integers(0, 9)) == 0:
        del inputs["IMAGE"]
    return RawRequest(f"IMAGE_SHAPE {shape}", inputs)


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)


@st.composite
def wrong_parameter(draw: Draw) -> RawRequest:
    name = draw(st.sampled_from([*PARAMETERS, "ois_other"]))
    value = draw(words | st.integers(-5, 2**62) | st.booleans() | st.floats(allow_nan=False))
    formats = [mask_format_name(form) for form in MaskFormat]
    bad = {
        "ois_contract": "2" if str(value) == str(CONTRACT) else value,
        "ois_mask_format": "gif" if value in formats else value,
        "ois_want": f"depth,{value} and everything",
        "ois_session": f"{value} \n",
        "ois_region": f"{value} region",
        "ois_answer": f"{value} answer",
        "ois_other": value,
    }[name]
    return RawRequest(f"{name}={bad!r}", GOOD, {name: bad})


@st.composite
def wrong_name(draw: Draw) -> RawRequest:
    """An input, output, model or version that does not exist, or a missing input."""
    word = draw(st.text("abcdefghijklmnopqrstuvwxyz_./", min_size=1, max_size=40)) + "?"
    return draw(
        st.sampled_from(
            [
                RawRequest(f"the input {word}", {**GOOD, word: GOOD["LABELS"]}),
                RawRequest(f"the output {word}", GOOD, outputs=("INFO", word)),
                RawRequest(f"the model {word}", GOOD, model=word),
                RawRequest(f"the version {word}", GOOD, version=word),
                RawRequest("the version 99", GOOD, version="99"),
                RawRequest("no image", {k: v for k, v in GOOD.items() if k != "IMAGE"}),
                RawRequest("no labels", {k: v for k, v in GOOD.items() if k != "LABELS"}),
                RawRequest("no points", {k: v for k, v in GOOD.items() if k != "POINTS"}),
            ]
        )
    )


malformed = st.one_of(
    lying_shape(),
    wrong_type(),
    wrong_length(),
    wrong_rank(),
    click_outside(),
    wrong_label(),
    too_much(),
    wrong_coverage(),
    wrong_digest(),
    wrong_image(),
    wrong_raw_shape(),
    wrong_parameter(),
    wrong_name(),
)
