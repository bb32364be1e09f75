"""Checks that a server works, with a real click.

Triton still calls itself ready after its Python models died. The embedded server and the health
check of the containers therefore send a request that needs the models.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from ois_client.contract.errors import (
    AccessDenied,
    DeadlineExceeded,
    IncompatibleServer,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
)
from ois_client.contract.transport import Cancellation
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, TritonOptions
from ois_client.transports.failures import innermost_cause
from ois_client.transports.http import BlockingHttp
from ois_client.wire import Message, Tensors

#: What the client makes of messages that are not our models', such as Triton's while it loads them.
_UNTYPED = (OISError, AccessDenied, DeadlineExceeded, IncompatibleServer)
_PARAMETERS = {"ois_session": "probe"}


def probe_click(host: str, port: int, *, token: str | None = None, timeout_s: float = 60) -> None:
    """Encode a tiny picture and click on it. Raises `OISError` if no mask comes back.

    INFO names the size of the picture, since some engines accept only certain shapes.
    """
    deadline = time.monotonic() + timeout_s
    info = probe_info(host, port, token=token, timeout_s=timeout_s)
    width, height = picture_size(info)
    pixels = [(7 * x + 31 * y) % 256 for y in range(height) for x in range(width)]
    tensors: Tensors = {
        "IMAGE": np.array(pixels, np.uint8),
        "IMAGE_SHAPE": np.array([height, width, 1], np.int32),
        "POINTS": np.array([[[width // 2, height // 2]]], np.float32),
        "LABELS": np.array([[1]], np.int32),
    }
    message = Message(tensors, _PARAMETERS, ("MASKS", "MASK_SIZES"))
    outputs = _infer(host, port, token, max(deadline - time.monotonic(), 0.1), message)
    sizes, expected = outputs["MASK_SIZES"].tolist(), (width * height + 7) // 8
    if sizes != [expected] or len(outputs["MASKS"]) != expected:
        raise ServerUnavailable(
            f"the server answered a click with masks of {sizes} bytes; expected [{expected}]. Its "
            "models run in an environment that does not suit them (NumPy 2?)"
        )


def probe_info(
    host: str, port: int, *, token: str | None = None, timeout_s: float = 10
) -> dict[str, Any]:
    """Return the INFO of the server as a dict. Uses neither engine nor feature store.

    Raises `OISError` if the server does not answer.
    """
    outputs = _infer(host, port, token, timeout_s, Message({}, _PARAMETERS, ("INFO",)))
    info: dict[str, Any] = json.loads(outputs["INFO"].tobytes())
    return info


def answers(host: str, port: int, *, token: str | None = None, timeout_s: float = 10) -> bool:
    """Whether the server is alive, even if it is busy: requests for INFO do not wait for clicks."""
    try:
        probe_info(host, port, token=token, timeout_s=timeout_s)
    except ServerOverloaded:
        return True
    except OISError:
        return False
    return True


def picture_size(info: dict[str, Any]) -> tuple[int, int]:
    """(width, height) from INFO.

    If a server of another release does not name it: a square that every profile covers, unless it
    was built for a single shape.
    """
    side = info["longest"] // info["patch"]
    width, height = info.get("probe") or (side, side)
    return width, height


def _infer(host: str, port: int, token: str | None, timeout_s: float, message: Message) -> Tensors:
    """Send one request, without retries.

    Raises the server's own typed error, and `ServerUnavailable` for any other failure.
    """
    http = BlockingHttp(Address("http", host, port), TritonOptions(token=token))
    try:
        return http.infer(Infer(message, {}, timeout_s, timeout_s), Cancellation())
    except OISError as error:
        if error.__cause__ is not None and isinstance(error, (ServerUnavailable, DeadlineExceeded)):
            reason = innermost_cause(error)
            raise ServerUnavailable(
                f"nothing answers a click at {host}:{port} ({reason})"
            ) from error
        if type(error) in _UNTYPED:
            raise ServerUnavailable(str(error)) from error
        raise
    finally:
        http.close()
