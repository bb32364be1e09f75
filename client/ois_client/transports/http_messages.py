"""`Infer` -> HTTP request -> tensors: the binary form of the KServe protocol that Triton speaks.

A body is JSON, then the bytes of each tensor; a header says where the JSON ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ois_client.contract.errors import IncompatibleServer, OISError
from ois_client.transports.exchange import Infer, Share, Unshare
from ois_client.transports.failures import error_for, status_of_http
from ois_client.transports.tensors import from_bytes, to_bytes
from ois_client.wire import INPUTS, MODEL, OUTPUTS, TOKEN_HEADER, Tensors

#: In lower case, as it is looked up.
JSON_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A POST. path: below the address."""

    path: str
    headers: Mapping[str, str]
    body: bytes


def infer_request(infer: Infer, token: str | None) -> HttpRequest:
    message = infer.message
    inputs, contents = [], []
    for name, array in message.tensors.items():
        memory = infer.shared.get(name)
        if memory is None:
            contents.append(to_bytes(array))
            parameters: dict[str, Any] = {"binary_data_size": len(contents[-1])}
        else:
            parameters = {
                "shared_memory_region": memory.region,
                "shared_memory_byte_size": memory.size,
            }
        inputs.append(
            {
                "name": name,
                "datatype": INPUTS[name].datatype,
                "shape": array.shape,
                "parameters": parameters,
            }
        )
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in message.outputs]
    described = {"inputs": inputs, "outputs": outputs, "parameters": dict(message.parameters)}
    text = json.dumps(described).encode()
    headers = {
        **_headers(token),
        **infer.headers,
        JSON_LENGTH: str(len(text)),
        # Any other type is safe too, but a large form would crash Triton 2.51.
        "content-type": "application/octet-stream",
    }
    return HttpRequest(f"/v2/models/{MODEL}/infer", headers, b"".join([text, *contents]))


def share_request(share: Share, token: str | None) -> HttpRequest:
    memory = share.memory
    body = {"key": memory.key, "offset": 0, "byte_size": memory.size}
    path = f"/v2/systemsharedmemory/region/{memory.region}/register"
    return HttpRequest(path, _json_headers(token), json.dumps(body).encode())


def unshare_request(unshare: Unshare, token: str | None) -> HttpRequest:
    path = f"/v2/systemsharedmemory/region/{unshare.region}/unregister"
    return HttpRequest(path, _json_headers(token), b"{}")


def tensors_of(body: bytes, json_length: str | None) -> Tensors:
    """The outputs of a good answer. Raises `IncompatibleServer` when it is not Triton's."""
    try:
        end = len(body) if json_length is None else int(json_length)
        outputs = json.loads(body[:end])["outputs"]
        tensors: Tensors = {}
        for output in outputs:
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                tensors[name] = np.array(output["data"], OUTPUTS[name].dtype).reshape(shape)
            else:
                tensors[name] = from_bytes(name, datatype, shape, body[end : end + size])
                end += size
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IncompatibleServer(
            f"the server's answer is not Triton's ({type(error).__name__}: {error}). Is this the "
            "HTTP address of a Triton server?"
        ) from error
    return tensors


def error_of(status: int, reason: str, body: bytes, *, url: str, timeout_s: float) -> OISError:
    """The typed error of an answer whose status is not 200."""
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP {status} {reason}"  # a proxy's page says nothing more
    return error_for(status_of_http(status), text, url=url, timeout_s=timeout_s)


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {TOKEN_HEADER: token}


def _json_headers(token: str | None) -> dict[str, str]:
    return {**_headers(token), "content-type": "application/json"}
