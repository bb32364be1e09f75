"""Every function that reads what comes from outside gives a value or its typed error.

Seeded and structure-aware (`support/fuzz`). What is found here does not need a server to repeat.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from PIL import Image
from tritonclient.grpc import service_pb2

from cvat_format import clicks_in_order, read_request
from label_studio_format import read_controls, read_prompt, saved_signs
from ois_cli.demo.gateway.clicks import PageClick
from ois_cli.demo.gateway.frames import write_frame
from ois_cli.demo.gateway.results import result_file
from ois_client import wire
from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import (
    IncompatibleServer,
    InvalidImage,
    InvalidInput,
    OISError,
)
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import ImageLimits, load_image
from ois_client.contract.masks import (
    MaskFormat,
    coco_of_mask,
    decode_mask,
    encode_mask,
    mask_of_coco,
    png_of_mask,
)
from ois_client.contract.transport import ClickReply, ClickRequest, ModelInfo
from ois_client.formats.brush import brush_of_mask, mask_of_brush
from ois_client.formats.cvat import cvat_of_mask, mask_of_cvat
from ois_client.transports import grpc, http
from ois_client.wire.schema import from_bytes, to_bytes
from support.fuzz.damage import damaged_bytes, damaged_json
from support.fuzz.files import damaged_file, good_files
from support.fuzz.messages import bytes_of, damaged_message, fields_of
from support.fuzz.size import dice_for, requests
from support.server.malformed import GOOD, RawRequest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
#: Longer than any of these may take, on a busy machine too.
HANGS_S = 10.0


def fuzz(
    name: str,
    short: int,
    good: Any,
    make: Callable[[Any], Any],
    read: Callable[[Any], object],
    errors: type[OISError] | tuple[type[OISError], ...],
) -> None:
    """Read what `make` returns, many times. Only `errors` may be raised, and nothing may hang.

    good: can be read, so that the damage is what is found.
    """
    read(good)
    dice, refused = dice_for(name), 0
    for number in range(requests(short)):
        given = make(dice)
        began = time.monotonic()
        where, text = f"{name} {number}: {given!r:.2000}", None
        try:
            read(given)
        except errors as error:
            refused += 1
            text = str(error)
        except Exception as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        assert text is None or (len(text) > 10 and "Traceback" not in text), where
        assert time.monotonic() - began < HANGS_S, where
    assert refused, name


# -- images ---------------------------------------------------------------------------------------

FILES = good_files()
LIMITS = ImageLimits(max_pixels=2**20, max_bytes=2**20)


def test_image_files() -> None:
    fuzz(
        "image files",
        1500,
        FILES[0],
        lambda dice: damaged_file(dice, FILES),
        lambda data: load_image(data, LIMITS).pixels(),
        InvalidImage,
    )


# -- the wire -------------------------------------------------------------------------------------

WIDTH, HEIGHT = 80, 60
MODEL = ModelInfo("disks", 42, 14, PREPROCESS_VERSION, "a" * 64, True, "here")


def the_request() -> ClickRequest:
    points, labels = pack_clicks([[Click(9, 8), Click(3, 4, False)]], WIDTH, HEIGHT)
    fit = MODEL.fit(WIDTH, HEIGHT)
    none = np.zeros((1, *fit.coverage_shape), np.uint8), np.zeros(1, bool)
    return ClickRequest(
        "0" * 64, points, labels, *none, want_depth=True, want_logits=True, want_order=True
    )


def the_reply(request: ClickRequest) -> wire.Tensors:
    fit = MODEL.fit(WIDTH, HEIGHT)
    size = fit.network_height, fit.network_width
    maps = np.zeros((2, *size), np.float32)
    masks = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    masks[:, 5:20, 7:33] = 1
    reply = ClickReply(masks, request.coverage, {}, maps[0], maps[:1], maps, MODEL.model_sha256)
    info = wire.ReplyInfo(MODEL, request.digest, WIDTH, HEIGHT, True, {"decode": 1.0})
    return wire.write_reply(info, reply)


REQUEST = the_request()
REPLY = the_reply(REQUEST)


def test_requests_of_clients() -> None:
    """As Triton passes them on: a message that it could read, as arrays."""
    good = [
        RawRequest("", GOOD, {"ois_want": "depth,order", "ois_session": "a"}).message(),
        RawRequest("", {"IMAGE": GOOD["IMAGE"]}).message(),
    ]
    texts = [one.SerializeToString() for one in good]

    def read(data: bytes) -> None:
        request = service_pb2.ModelInferRequest()
        with contextlib.suppress(DecodeError):
            request.ParseFromString(data)
        tensors = {}
        for one, content in zip(request.inputs, request.raw_input_contents, strict=False):
            tensors[one.name] = from_bytes(one.name, one.datatype, list(one.shape), content)
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in request.parameters.items()
        }
        call = wire.read_call(tensors, parameters, limits=LIMITS)
        if call.picture is not None and call.objects:
            fit = Geometry.fit(call.picture.width, call.picture.height, longest=56, patch=14)
            call.click_request(fit)

    errors = (InvalidInput, IncompatibleServer)
    fuzz(
        "requests",
        1500,
        texts[0],
        lambda dice: damaged_message(dice, dice.choice(texts)),
        read,
        errors,
    )


def test_replies_over_grpc() -> None:
    good = service_pb2.ModelInferResponse()
    for name, array in REPLY.items():
        good.outputs.add(name=name, datatype=wire.OUTPUTS[name].datatype, shape=array.shape)
        good.raw_output_contents.append(to_bytes(array))
    text = good.SerializeToString()

    def read(data: bytes) -> None:
        response = service_pb2.ModelInferResponse()
        with contextlib.suppress(DecodeError):
            response.ParseFromString(data)
        wire.read_click_reply(grpc.tensors_of(response), REQUEST)

    fuzz("grpc", 800, text, lambda dice: damaged_message(dice, text), read, IncompatibleServer)


def test_replies_over_http() -> None:
    parts = {name: to_bytes(array) for name, array in REPLY.items()}
    document = {
        "model_name": "ois_segment",
        "outputs": [
            {
                "name": name,
                "datatype": wire.OUTPUTS[name].datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(parts[name])},
            }
            for name, array in REPLY.items()
        ],
    }
    rest = b"".join(parts.values())

    def make(dice: Any) -> tuple[bytes, str | None]:
        text = json.dumps(document).encode()
        if dice.random() < 0.7:
            text = damaged_json(dice, document)
        body = rest if dice.random() < 0.5 else damaged_bytes(dice, rest)
        length = str(len(text)) if dice.random() < 0.9 else dice.choice((None, "0", "-1", "1e9"))
        return text + body, length

    def read(given: tuple[bytes, str | None]) -> None:
        wire.read_click_reply(http.tensors_of(*given), REQUEST)

    good = json.dumps(document).encode()
    fuzz("http", 800, (good + rest, str(len(good))), make, read, IncompatibleServer)


def test_info_of_servers() -> None:
    document = json.loads(wire.ReplyInfo(MODEL, "0" * 64, WIDTH, HEIGHT).to_json())
    make = lambda dice: damaged_json(dice, document)  # noqa: E731
    fuzz("info", 800, json.dumps(document), make, wire.ReplyInfo.from_json, IncompatibleServer)


def test_error_texts_of_servers() -> None:
    good = wire.error_text(InvalidImage("got 3 bytes; expected an image")).encode()
    dice = dice_for("errors")
    for _ in range(requests(500)):
        text = damaged_bytes(dice, good).decode("utf-8", "replace")
        assert isinstance(wire.error_from_text(text), OISError | None)


# -- masks ----------------------------------------------------------------------------------------

MASK = np.zeros((23, 37), np.uint8)
MASK[4:15, 6:30] = 1
MASK[9:12, 11:15] = 0


@pytest.mark.parametrize("form", list(MaskFormat))
def test_masks(form: MaskFormat) -> None:
    good = encode_mask(MASK, form)

    def make(dice: Any) -> tuple[bytes, int, int]:
        size = (37, 23) if dice.random() < 0.9 else (dice.randrange(1, 99), dice.randrange(1, 99))
        return damaged_bytes(dice, good), *size

    def read(given: tuple[bytes, int, int]) -> None:
        data, width, height = given
        mask = decode_mask(data, form, width, height)
        assert mask.shape == (height, width)
        assert mask.max(initial=0) <= 1

    fuzz(f"masks {form}", 600, (good, 37, 23), make, read, InvalidInput)


def test_coco_masks() -> None:
    documents = [coco_of_mask(MASK), coco_of_mask(MASK, compressed=False)]
    fuzz(
        "coco",
        800,
        documents[0],
        lambda dice: loaded(damaged_json(dice, dice.choice(documents))),
        lambda value: mask_of_coco(value, expected=(37, 23)),
        InvalidInput,
    )


@pytest.mark.parametrize(
    ("good", "read"),
    [(brush_of_mask(MASK), mask_of_brush), (cvat_of_mask(MASK), mask_of_cvat)],
    ids=["brush", "cvat"],
)
def test_masks_of_annotation_tools(good: list[int], read: Callable[..., Any]) -> None:
    fuzz(
        read.__name__,
        800,
        good,
        lambda dice: loaded(damaged_json(dice, good)),
        lambda values: read(values, 37, 23),
        InvalidInput,
    )


def loaded(text: bytes) -> Any:
    """The document, or the text where it is no JSON: readers then get a value of a wrong type."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.decode("utf-8", "replace")


# -- the demo and the annotation tools ------------------------------------------------------------


def test_frames_of_the_page() -> None:
    head = {
        "digest": "0" * 64,
        "width": WIDTH,
        "height": HEIGHT,
        "model": "",
        "clicks": [[9, 8, True], [3, 4, False]],
        "want": ["mask", "depth"],
    }
    coverage = bytes(REQUEST.coverage.size)

    def make(dice: Any) -> bytes:
        parts = {"coverage": coverage} if dice.random() < 0.5 else {}
        if dice.random() < 0.3:
            return damaged_bytes(dice, write_frame(head, parts))
        text = damaged_json(dice, {**head, "parts": [[name, len(p)] for name, p in parts.items()]})
        return b"".join([len(text).to_bytes(4, "big"), text, *parts.values()])

    fuzz(
        "clicks",
        1000,
        write_frame(head, {}),
        make,
        lambda data: PageClick.read(data, MODEL),
        OISError,
    )


def test_results_of_the_page() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((23, 37, 3), np.uint8)).save(file, "PNG")
    mask, picture = png_of_mask(MASK), file.getvalue()
    objects = [{"name": "1", "label": ""}, {"name": "2", "label": ""}]
    good = {"kind": "cutout", "name": "a.jpg", "objects": objects}

    def make(dice: Any) -> bytes:
        parts = {"mask0": mask, "mask1": mask, "image": picture}
        if dice.random() < 0.5:
            name = dice.choice(sorted(parts))
            parts[name] = damaged_file(dice, [parts[name]])
        listed = [[name, len(part)] for name, part in parts.items()]
        head = {**good, "kind": dice.choice(("mask", "coco", "cutout")), "parts": listed}
        text = damaged_json(dice, head) if dice.random() < 0.5 else json.dumps(head).encode()
        return b"".join([len(text).to_bytes(4, "big"), text, *parts.values()])

    whole = write_frame(good, {"mask0": mask, "mask1": mask, "image": picture})
    fuzz("results", 500, whole, make, result_file, InvalidInput)


def test_requests_of_cvat() -> None:
    good = json.loads((GOLDEN / "cvat_interactor.json").read_text())["request"]

    def read(body: bytes) -> None:
        _, points = read_request(body)
        clicks_in_order(points, (), 8, 4)

    document = {**good, "image": "aW1n"}
    fuzz(
        "cvat",
        1000,
        json.dumps(document).encode(),
        lambda dice: damaged_json(dice, document),
        read,
        InvalidInput,
    )


def test_requests_of_label_studio() -> None:
    good = json.loads((GOLDEN / "label_studio_predict.json").read_text())["request"]

    def read(request: Any) -> None:
        if not isinstance(request, dict):
            raise InvalidInput("got no object; expected one")
        controls = read_controls(request.get("label_config"))
        params, tasks = request.get("params"), request.get("tasks")
        task = tasks[0] if isinstance(tasks, list) and tasks else {}
        signs = saved_signs(task) if isinstance(task, dict) else {}
        read_prompt(params.get("context") if isinstance(params, dict) else params, controls, signs)

    make = lambda dice: loaded(damaged_json(dice, good))  # noqa: E731
    fuzz("label studio", 1000, good, make, read, InvalidInput)


# -- the fuzzer itself ----------------------------------------------------------------------------


def test_the_same_seed_damages_in_the_same_way() -> None:
    def made() -> list[bytes]:
        dice = dice_for("seed")
        return [damaged_file(dice, FILES) for _ in range(50)] + [
            damaged_json(dice, {"a": [1, {"b": "c"}]}) for _ in range(50)
        ]

    assert made() == made()
    assert len(set(made())) > 80


def test_messages_are_read_and_written_without_their_schema() -> None:
    text = RawRequest("", GOOD, {"ois_session": "a"}).message().SerializeToString()
    fields = fields_of(text)
    assert fields is not None
    assert bytes_of(fields) == text
    assert fields_of(b"\x07") is None
