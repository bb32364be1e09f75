"""5,000 malformed requests: each gets a typed error, and after each batch a good click works.

A third of them go to the models behind `ois_segment`, straight to Triton: the front refuses them.
"""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2_grpc

from ois_client import Client
from ois_client.contract.errors import IncompatibleServer, InvalidInput, UnknownImage
from ois_client.transports.failures import error_for, status_of_http
from ois_client.wire import MODEL
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import triton_target
from support.server.malformed import RawRequest, malformed
from support.server.malformed_models import GOOD_INPUTS, malformed_for_models
from support.server.players import pixels

#: The errors that a malformed request may get. They say what is wrong with the request, never that
#: the server was late, overloaded or failed. Triton's own errors become `IncompatibleServer`.
REFUSALS = (InvalidInput, UnknownImage, IncompatibleServer)

BATCH, BATCHES = 25, 200
HTTP_BATCHES = 40

FUZZ = settings(
    deadline=None,
    derandomize=True,  # the same requests in every run
    database=None,
    phases=[Phase.generate],  # no shrinking: `RawRequest.description` is clear enough
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def target(engines: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(engines, ServerOptions(cache_bytes=2**24)) as server:
        yield server


@pytest.fixture(scope="module")
def client(target: EmbeddedServer) -> Iterator[Client]:
    with Client(target.grpc_url) as made:
        yield made


@pytest.fixture(scope="module")
def expected(engines: Path) -> np.ndarray:
    with Client(f"local:{engines}") as twin:
        return twin.open(pixels(9000)).click(40, 40)


def is_refused(status: str, text: str, fault: str) -> None:
    error = error_for(status, text, url="http://server", timeout_s=30)
    assert isinstance(error, REFUSALS), f"{fault}: {status} {text}"
    assert "Traceback" not in text, f"{fault}: {text}"
    assert "/site-packages/" not in text, f"{fault}: {text}"
    assert ".py" not in text, f"{fault}: {text}"


def still_works(target: EmbeddedServer, client: Client, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(client.open(pixels(9000)).click(40, 40), expected)
    assert target.restarts == 0


def test_every_malformed_grpc_request_gets_a_typed_error(
    target: EmbeddedServer, client: Client, expected: np.ndarray
) -> None:
    sent = 0
    asked: Counter[str] = Counter()
    with (
        grpc.insecure_channel(target.grpc_url.removeprefix("grpc://")) as channel,
        grpc.insecure_channel(triton_target(target)) as straight,
    ):
        through = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        direct = service_pb2_grpc.GRPCInferenceServiceStub(straight).ModelInfer

        @settings(FUZZ, max_examples=BATCHES)
        @given(batch=st.lists(malformed | malformed_for_models, min_size=BATCH, max_size=BATCH))
        def fuzz(batch: list[RawRequest]) -> None:
            nonlocal sent
            calls = [
                (direct if one.model in GOOD_INPUTS else through).future(one.message(), timeout=30)
                for one in batch
            ]
            for one, call in zip(batch, calls, strict=True):
                error = call.exception()
                assert error is not None, f"{one.description}: was answered like a good request"
                is_refused(error.code().name, error.details() or "", one.description)
                asked[one.model] += 1
            sent += len(batch)
            still_works(target, client, expected)

        fuzz()
    assert sent >= 5000
    for model in (MODEL, *GOOD_INPUTS):
        assert asked[model] > 50, asked


NAMES = st.sampled_from(["inputs", "outputs", "parameters", "id", "x"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
bodies = (
    st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"inputs": json_values.filter(bool)}).map(
        lambda value: json.dumps(value).encode()
    )
)
headers = st.sampled_from(
    [
        {},
        {"Content-Type": "application/json"},
        {"Content-Type": "application/octet-stream"},
        {"Inference-Header-Content-Length": "5"},
        {"Inference-Header-Content-Length": "99999999"},
        {"Inference-Header-Content-Length": "-1"},
        {"Inference-Header-Content-Length": "many"},
        {"Content-Encoding": "gzip"},
    ]
)


def test_every_malformed_http_request_gets_an_answer_and_no_traceback(
    target: EmbeddedServer, client: Client, expected: np.ndarray
) -> None:
    """Bodies that are not requests get an HTTP error. The server never crashes."""
    host, _, port = target.http_url.removeprefix("http://").partition(":")

    @settings(FUZZ, max_examples=HTTP_BATCHES)
    @given(batch=st.lists(st.tuples(bodies, headers), min_size=BATCH, max_size=BATCH))
    def fuzz(batch: list[tuple[bytes, dict[str, str]]]) -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        for body, more in batch:
            connection.request("POST", f"/v2/models/{MODEL}/infer", body, more)
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
            # An empty request is valid: it asks for the server's description.
            if response.status != http.client.OK:
                fault = str(body[:200])
                is_refused(status_of_http(response.status), text, fault)
            assert "Traceback" not in text
        connection.close()
        still_works(target, client, expected)

    fuzz()
