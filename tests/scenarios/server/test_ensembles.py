"""The stateless ensembles: one request with an image returns its features or masks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import InvalidClick, InvalidInput
from ois_client.contract.images import Picture, load_image
from ois_client.contract.masks import MaskFormat, decode_mask
from ois_client.contract.transport import ClickRequest
from ois_client.wire import Message, Tensors
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.backends import load_engines
from ois_runtime.engines.local import LocalTransport
from ois_runtime.engines.pixels import preprocess
from support.server.calls import infer, picture
from support.tiny_engines import LONGEST, PATCH

CLICKS = [[Click(40, 40), Click(2, 2, positive=False)], [Click(90, 30)]]


def request(image: Picture) -> Tensors:
    points, labels = pack_clicks(CLICKS, image.width, image.height)
    raw = image.format == "raw"
    return {
        "IMAGE": np.frombuffer(image.data, np.uint8),
        "IMAGE_SHAPE": np.array((image.height, image.width, 3) if raw else (), np.int32),
        "POINTS": points,
        "LABELS": labels,
    }


def pictures() -> list[Picture]:
    raw = picture(60)
    file = io.BytesIO()
    Image.fromarray(raw.pixels()).save(file, format="PNG")
    return [raw, load_image(file.getvalue())]


@pytest.mark.parametrize("image", pictures(), ids=["raw", "png"])
@pytest.mark.parametrize("form", [MaskFormat.PACKED, MaskFormat.PNG])
def test_oneshot_equals_an_encode_and_a_click(
    server: EmbeddedServer, local: LocalTransport, image: Picture, form: MaskFormat
) -> None:
    message = Message(
        request(image), {"ois_mask_format": form.name.lower()}, ("MASKS", "MASK_SIZES", "SIZE")
    )
    reply = infer(server, message, model="ois_oneshot")
    assert reply["SIZE"].tolist() == [image.width, image.height]
    local.encode(image)
    points, labels = pack_clicks(CLICKS, image.width, image.height)
    none = np.zeros((2, 3, 4), np.uint8), np.zeros(2, bool)
    expected = local.click(ClickRequest(image.digest, points, labels, *none)).masks
    ends = np.cumsum(reply["MASK_SIZES"])
    for mask, end, size in zip(expected, ends, reply["MASK_SIZES"], strict=True):
        data = reply["MASKS"].tobytes()[end - size : end]
        np.testing.assert_array_equal(decode_mask(data, form, image.width, image.height), mask)


def test_encode_gives_the_encoders_outputs(server: EmbeddedServer, engines: Path) -> None:
    image = picture(61)
    tensors = {name: request(image)[name] for name in ("IMAGE", "IMAGE_SHAPE")}
    names = ("depth", "depth_min", "depth_max", "position")
    reply = infer(server, Message(tensors, {}, (*names, "SIZE")), model="ois_encode")
    pixels, geometry = preprocess(image, longest=LONGEST, patch=PATCH)
    expected = load_engines(engines).encode(pixels, geometry).arrays
    for name in names:
        np.testing.assert_array_equal(reply[name], expected[name])
    assert reply["SIZE"].tolist() == [112, 84]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("POINTS", np.full((2, 2, 2), -1, np.float32), InvalidClick),
        ("POINTS", np.zeros((0, 0, 2), np.float32), InvalidInput),
        ("IMAGE", np.zeros(0, np.uint8), InvalidInput),
    ],
)
def test_wrong_requests_get_typed_errors(
    server: EmbeddedServer, name: str, value: np.ndarray, kind: type[Exception]
) -> None:
    message = Message({**request(picture(60)), name: value}, {}, ("MASKS",))
    with pytest.raises(kind):
        infer(server, message, model="ois_oneshot")
