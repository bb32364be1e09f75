"""Does the server really work? A click, not Triton's word for it.

Triton calls itself ready after its Python models died, so readiness is a real request. Over
HTTP with the standard library alone: also what a container's health check can run.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from ois_client.contract.errors import (
    OISError,
    ServerOverloaded,
    ServerUnavailable,
    error_from_code,
)
from ois_client.wire import MODEL, error_from_text
from ois_runtime.embedded.options import token_header


def probe_click(host: str, port: int, *, token: str | None = None, timeout_s: float = 60) -> None:
    """Encode a tiny picture and click on it. Raises `OISError` unless a mask comes back.

    The server itself names the picture's size: engines need not take every shape.
    """
    deadline = time.monotonic() + timeout_s
    info = probe_info(host, port, token=token, timeout_s=timeout_s)
    width, height = _picture_size(info)
    middle = [width // 2, height // 2]
    pixels = [(7 * x + 31 * y) % 256 for y in range(height) for x in range(width)]
    inputs = [
        {"name": "IMAGE", "datatype": "UINT8", "shape": [len(pixels)], "data": pixels},
        {"name": "IMAGE_SHAPE", "datatype": "INT32", "shape": [3], "data": [height, width, 1]},
        {"name": "POINTS", "datatype": "FP32", "shape": [1, 1, 2], "data": middle},
        {"name": "LABELS", "datatype": "INT32", "shape": [1, 1], "data": [1]},
    ]
    left_s = max(deadline - time.monotonic(), 0.1)
    outputs = _infer(host, port, token, left_s, inputs, ["MASKS", "MASK_SIZES"])
    expected = (width * height + 7) // 8
    if outputs["MASK_SIZES"] != [expected] or len(outputs["MASKS"]) != expected:
        raise ServerUnavailable(
            f"the server answered a click with masks of {outputs['MASK_SIZES']} bytes; expected "
            f"[{expected}]. Its models run in an environment that does not suit them (NumPy 2?)"
        )


def probe_info(
    host: str, port: int, *, token: str | None = None, timeout_s: float = 10
) -> dict[str, Any]:
    """What the model says of itself, as a dict. Touches neither engine nor feature store.

    Raises `OISError` when it does not answer.
    """
    outputs = _infer(host, port, token, timeout_s, [], ["INFO"])
    info: dict[str, Any] = json.loads(outputs["INFO"][0])
    return info


def answers(host: str, port: int, *, token: str | None = None, timeout_s: float = 10) -> bool:
    """Whether the server lives, however much it has to do: a description waits behind no click."""
    try:
        probe_info(host, port, token=token, timeout_s=timeout_s)
    except ServerOverloaded:
        return True  # busy, not dead
    except OISError:
        return False
    return True


def _picture_size(info: dict[str, Any]) -> tuple[int, int]:
    """What INFO says. A server of another release does not: then the network's square, which is in
    every profile that was not built for one shape alone."""
    side = info["longest"] // info["patch"]
    width, height = info.get("probe") or (side, side)
    return width, height


def _infer(
    host: str,
    port: int,
    token: str | None,
    timeout_s: float,
    inputs: list[dict[str, Any]],
    outputs: list[str],
) -> dict[str, list[Any]]:
    body = {
        "inputs": inputs,
        "outputs": [{"name": name} for name in outputs],
        "parameters": {"ois_session": "probe"},
    }
    headers = {"Content-Type": "application/json", **token_header(token)}
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps(body), headers)
        response = connection.getresponse()
        status, text = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerUnavailable(
            f"nothing answers a click at {host}:{port} ({type(error).__name__}: {error})"
        ) from error
    finally:
        connection.close()
    try:
        reply = json.loads(text)
        if status == http.client.OK:
            return {output["name"]: output["data"] for output in reply["outputs"]}
        message = str(reply["error"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {status}"
    raise error_from_text(message) or error_from_code("SERVER_UNAVAILABLE", message)
