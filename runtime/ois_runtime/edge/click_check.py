"""The health check that Envoy sends to a replica: a real click, as bytes.

Triton still calls itself ready after its Python models died, so only a click shows that a replica
works. The picture is encoded once; later checks find its features. They state its digest, so they
wait with the clicks and not with the encodes.
"""

from __future__ import annotations

import numpy as np

from ois_client.contract.images import load_image
from ois_client.transports.exchange import Infer
from ois_client.transports.http import HttpRequest, infer_request
from ois_client.wire import Message
from ois_client.wire.request import bytes_tensor


def click_check(width: int, height: int) -> HttpRequest:
    """A click in the middle of a picture of `width` x `height` pixels that is always the same."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    pixels = ((7 * columns + 31 * rows) % 256).astype(np.uint8)
    message = Message(
        {
            "DIGEST": bytes_tensor(load_image(pixels).digest),
            "IMAGE": pixels.reshape(-1),
            "IMAGE_SHAPE": np.array([height, width, 1], np.int32),
            "POINTS": np.array([[[width // 2, height // 2]]], np.float32),
            "LABELS": np.array([[1]], np.int32),
        },
        {"ois_session": "probe"},  # the server does not log this session
        ("MASK_SIZES",),
    )
    request = infer_request(Infer(message, {}, 0, 0), None)
    return HttpRequest(f"/{request.path.lstrip('/')}", request.headers, request.body)
