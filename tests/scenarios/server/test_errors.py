"""Every wrong request gets a typed error without internal details."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient import grpc as triton_grpc
from tritonclient.utils import np_to_triton_dtype

from ois_client.contract.clicks import Click
from ois_client.contract.errors import (
    IncompatibleServer,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    OISError,
    TooManyClicks,
)
from ois_client.contract.masks import MaskFormat
from ois_client.wire import MODEL, Message, click_message, encode_message, read_click_reply
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import click_request, eventually, infer, picture

IMAGE = picture(50)
GOOD = click_message(click_request(IMAGE, [Click(40, 40)]), picture=IMAGE)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGE.pixels()).save(file, format="JPEG")
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header is complete but whose pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def u8(data: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, dtype=np.uint8)


def objects(count: int, clicks: int = 1) -> dict[str, Any]:
    return {
        "POINTS": np.zeros((count, clicks, 2), np.float32),
        "LABELS": np.ones((count, clicks), np.int32),
        "COVERAGE": None,
        "HAS_PREVIOUS": None,
    }


#: Changes to a good request (None: removed), the expected error and a part of its text.
WRONG: list[tuple[dict[str, Any], type[OISError], str]] = [
    ({"POINTS": np.full((1, 1, 2), np.nan, np.float32)}, InvalidClick, "finite"),
    ({"POINTS": np.full((1, 1, 2), np.inf, np.float32)}, InvalidClick, "finite"),
    ({"POINTS": np.full((1, 1, 2), 112, np.float32)}, InvalidClick, "outside the 112x84"),
    ({"LABELS": np.full((1, 1), 7, np.int32)}, InvalidClick, "label 7"),
    ({"LABELS": np.full((1, 1), -1, np.int32)}, InvalidInput, "no click"),
    ({"LABELS": None}, InvalidClick, "missing"),
    ({"LABELS": np.ones((2, 1), np.int32)}, InvalidClick, "LABELS"),
    ({"POINTS": None}, InvalidInput, "without POINTS"),
    (objects(0), InvalidInput, "0 objects"),
    (objects(33), InvalidInput, "33 objects"),
    (objects(1, 25), TooManyClicks, "25 positive"),
    (objects(1, 5000), TooManyClicks, "5000 clicks"),
    ({"COVERAGE": np.zeros((1, 2, 2), np.uint8)}, InvalidInput, "got coverage of shape"),
    ({"COVERAGE": None}, InvalidInput, "COVERAGE"),
    ({"HAS_PREVIOUS": np.zeros(3, bool)}, InvalidInput, "HAS_PREVIOUS"),
    ({"DIGEST": np.array([b"f" * 64], object)}, InvalidImage, "DIGEST"),
    ({"DIGEST": np.array([b"../../etc/passwd"], object)}, InvalidInput, "64 hex digits"),
    ({"IMAGE": u8(b""), "IMAGE_SHAPE": None}, InvalidImage, "0 bytes"),
    ({"IMAGE": u8(b"not an image"), "IMAGE_SHAPE": None}, InvalidImage, "not an image"),
    ({"IMAGE": u8(jpeg()[:100]), "IMAGE_SHAPE": None, "DIGEST": None}, InvalidImage, "truncated"),
    ({"IMAGE": u8(jpeg()[:-900]), "IMAGE_SHAPE": None, "DIGEST": None}, InvalidImage, "truncated"),
    ({"IMAGE": u8(png_of_size(60000, 60000)), "IMAGE_SHAPE": None}, InvalidImage, "the limit is"),
    ({"IMAGE_SHAPE": np.array([84, 112, 4], np.int32)}, InvalidImage, "C = 1 or 3"),
    ({"IMAGE_SHAPE": np.array([84, 111, 3], np.int32)}, InvalidImage, "bytes of raw samples"),
    ({"IMAGE_SHAPE": np.array([-84, -112, 3], np.int32)}, InvalidImage, "IMAGE_SHAPE"),
    ({"IMAGE": None}, InvalidInput, "IMAGE_SHAPE without IMAGE"),
    ({"ois_mask_format": "gif"}, InvalidInput, "'gif'"),
    ({"ois_want": "everything"}, InvalidInput, "'everything'"),
    ({"ois_wnat": "depth"}, InvalidInput, "unknown parameter"),
    ({"ois_session": "two\nlines"}, InvalidInput, "session id"),
    ({"ois_contract": "2"}, IncompatibleServer, "contract"),
]


def changed(message: Message, changes: Mapping[str, Any]) -> Message:
    tensors, parameters = dict(message.tensors), dict(message.parameters)
    for name, value in changes.items():
        (parameters if name.startswith("ois_") else tensors)[name] = value
    kept = {name: array for name, array in tensors.items() if array is not None}
    return replace(message, tensors=kept, parameters=parameters)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_every_wrong_request_gets_its_own_error(server: EmbeddedServer, protocol: str) -> None:
    for changes, kind, words in WRONG:
        with pytest.raises(OISError) as caught:
            infer(server, changed(GOOD, changes), protocol=protocol)
        assert type(caught.value) is kind, changes
        text = str(caught.value)
        assert words in text, changes
        assert "Traceback" not in text
        assert ".py" not in text
    infer(server, GOOD, protocol=protocol)  # the server still works


def test_an_image_of_too_many_bytes_is_refused(server: EmbeddedServer) -> None:
    large = {"IMAGE": np.zeros(2**26 + 1, np.uint8), "IMAGE_SHAPE": None}
    with pytest.raises(InvalidImage, match="67108865 bytes; the limit is 67108864"):
        infer(server, changed(GOOD, large), protocol="http")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_wrong_types_do_not_reach_triton(server: EmbeddedServer, protocol: str) -> None:
    message = replace(GOOD, tensors={**GOOD.tensors, "LABELS": np.ones((1, 1), np.int64)})
    with pytest.raises(InvalidInput, match="got LABELS as 'INT64'; expected INT32"):
        infer(server, message, protocol=protocol)


def test_cancelled_clicks_are_not_computed(server: EmbeddedServer, server_log: list[str]) -> None:
    large = picture(51, 1600, 1200)
    infer(server, encode_message(large))
    request = click_request(large, *[[Click(9 * n, 9)] for n in range(32)])
    message = click_message(replace(request, session="impatient"), mask_format=MaskFormat.PNG)
    with triton_grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        answered = threading.Event()
        calls = [start(client, message, answered) for _ in range(12)]
        # A call cancelled too early would never leave the client.
        assert answered.wait(60)
        for call in calls:
            call.cancel()
    dropped = eventually(
        lambda: [line for line in server_log if "click cancelled session=impatient" in line],
        lambda lines: len(lines) >= 8,
    )
    assert len(dropped) >= 8
    reply = read_click_reply(infer(server, GOOD), click_request(IMAGE, [Click(40, 40)]))
    assert reply.masks.any()


def start(
    client: triton_grpc.InferenceServerClient, message: Message, answered: threading.Event
) -> Any:
    """Start a call. answered: set when an answer arrives."""
    inputs = []
    for name, array in message.tensors.items():
        inputs.append(triton_grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    parameters = dict(message.parameters)
    return client.async_infer(MODEL, inputs, lambda **_: answered.set(), parameters=parameters)


def test_log_lines_name_the_session_and_the_image(
    server: EmbeddedServer, server_log: list[str]
) -> None:
    request = replace(click_request(IMAGE, [Click(1, 1)]), session="anna-7")
    infer(server, click_message(request, picture=IMAGE))
    (line,) = eventually(
        lambda: [line for line in server_log if "session=anna-7" in line], lambda lines: bool(lines)
    )
    assert f"ois click ok session=anna-7 image={IMAGE.digest[:12]} objects=1" in line
    assert "decode=" in line
