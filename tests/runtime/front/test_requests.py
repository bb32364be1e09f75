"""What the front passes on to Triton, and what it refuses."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from ois_client.contract.errors import InvalidInput
from ois_client.wire import ONESHOT_MODEL
from ois_runtime.front.requests import check_region, checked_json, checked_message
from support.server.malformed import GOOD, RawRequest, malformed
from support.server.malformed_models import GOOD_INPUTS

WANTED = {"ois_want": "depth", "ois_session": "anna"}
COARSE = {"ois_answer": "coarse"}
GOOD_REQUESTS = [
    RawRequest("", {}),
    RawRequest("", GOOD, WANTED, ("INFO", "MASKS")),
    RawRequest("", GOOD, COARSE, ("INFO", "MASKS", "MASK_SIZES")),
    RawRequest("", GOOD_INPUTS[ONESHOT_MODEL], model=ONESHOT_MODEL),
    RawRequest("", GOOD, version="1"),
]


def parts(one: RawRequest) -> tuple[dict[str, Any], bytes]:
    """The JSON and the bytes after it."""
    _, body, headers = one.http()
    end = int(headers["Inference-Header-Content-Length"])
    return json.loads(body[:end]), body[end:]


def read(document: Any, rest: bytes = b"", **more: bool) -> dict[str, Any]:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    given = {"shared_memory": False, **more}
    found: dict[str, Any] = json.loads(checked_json(text, memoryview(rest), **given))
    return found


@pytest.mark.parametrize("one", GOOD_REQUESTS, ids=range(len(GOOD_REQUESTS)))
def test_good_requests_stay_as_they_are(one: RawRequest) -> None:
    document, rest = parts(one)
    assert read(document, rest) == document
    message = one.message()
    before = message.SerializeToString(deterministic=True)
    after = checked_message(message, shared_memory=False)
    assert after.SerializeToString(deterministic=True) == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(one=malformed)
def test_a_malformed_request_is_refused_with_a_message_or_left_to_the_model(
    one: RawRequest,
) -> None:
    refused = ""
    try:
        checked_message(one.message(), shared_memory=False)
    except InvalidInput as error:
        refused = str(error)
    assert not refused or refused.startswith("got ")
    assert len(refused) < 1000


SMALL = {"name": "IMAGE_SHAPE", "datatype": "INT32", "shape": [3], "data": [84, 112, 3]}
#: JSON that must not reach Triton, and a part of the reason.
REFUSED: list[tuple[object, str]] = [
    ({"inputs": [], "outputs": [{"name": "INFO", "parameters": {"classification": 1}}]}, "INFO"),
    ({"inputs": [], "outputs": [{"name": "X"}]}, "'X'"),
    ({"inputs": [], "outputs": [{"name": "INFO"}, {"name": "INFO"}]}, "at most once"),
    (
        {"inputs": [], "outputs": [{"name": "INFO", "parameters": {"shared_memory_region": "a"}}]},
        "INFO",
    ),
    ({"inputs": [], "parameters": {"sequence_id": 1}}, "sequence_id"),
    ({"inputs": [], "parameters": {"authorization": "mine"}}, "authorization"),
    ({"inputs": [], "parameters": {"ois_want": ["depth"]}}, "ois_want"),
    ({"inputs": [], "parameters": {"ois_session": "a" * 2000}}, "ois_session"),
    ({"inputs": [], "id": 5}, "id"),
    ({"inputs": [], "model_name": "ois_encoder"}, "model_name"),
    ({"inputs": {}}, "list"),
    ({"inputs": [[]]}, "object"),
    ({"inputs": [SMALL, SMALL]}, "twice"),
    ({"inputs": [{**SMALL, "data": [1, 2]}]}, "2 values"),
    ({"inputs": [{**SMALL, "data": ["1", "2", "3"]}]}, "INT32"),
    ({"inputs": [{**SMALL, "shape": [-3]}]}, "shape"),
    ({"inputs": [{**SMALL, "shape": [1.5]}]}, "shape"),
    ({"inputs": [{**SMALL, "shape": [2**62, 4]}]}, "shape"),
    ({"inputs": [{**SMALL, "datatype": "FP32"}]}, "INT32"),
    ({"inputs": [{**SMALL, "parameters": {"binary_data_size": 12}}]}, "twice"),
    ({"inputs": [{"name": "IMAGE", "datatype": "UINT8", "shape": [9]}]}, "without data"),
    ({"inputs": [{**SMALL, "parameters": {"shared_memory_region": "a"}}]}, "twice"),
    (b"[" * 9000, "deep"),
    (b'{"inputs": ' + b"[" * 40 + b"]" * 40 + b"}", "deep"),
    (b'{"inputs": [], "inputs": []}', "twice"),
    (b'{"inputs": [], "parameters": {"ois_want": NaN}}', "NaN"),
    (b'{"inputs": [], "parameters": {"ois_want": 1e999}}', "1e999"),
    (b'{"inputs": [], "parameters": {"ois_want": ' + b"9" * 500 + b"}}", "digits"),
    (b'{"inputs": [], "id": "\\ud800"}', "surrogate"),
    (b'{"inputs": [], "parameters": {"ois_session": "\\ud800"}}', "surrogate"),
    (b"\xff\xfe", "read"),
    (b"", "read"),
]


@pytest.mark.parametrize(("document", "word"), REFUSED, ids=range(len(REFUSED)))
def test_json_that_is_no_request_of_ours_is_refused(document: object, word: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(document)
    assert word in str(refused.value)


def test_the_bytes_are_as_many_as_the_json_says() -> None:
    document, rest = parts(GOOD_REQUESTS[1])
    for wrong in (rest[:-1], rest + b"x", b""):
        with pytest.raises(InvalidInput, match="bytes"):
            read(document, wrong)


def test_an_empty_request_asks_for_the_description() -> None:
    assert read({}) == {"inputs": []}


def test_small_numbers_may_be_in_the_json() -> None:
    assert read({"inputs": [SMALL]})["inputs"] == [SMALL]


def change(**changes: Any) -> Any:
    request = GOOD_REQUESTS[1].message()
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def test_messages_that_are_no_requests_of_ours_are_refused() -> None:
    classified = change()
    classified.outputs[0].parameters["classification"].int64_param = 1
    typed = change()
    typed.inputs[1].contents.fp32_contents.append(1)
    more = change()
    more.raw_input_contents.append(b"x")
    fewer = change()
    del fewer.raw_input_contents[-1]
    tagged = change()
    tagged.parameters["priority"].uint64_param = 1
    shared = change()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "a"
    for request, word in (
        (change(model_name="ois_encoder"), "ois_encoder"),
        (change(model_name=""), "model"),
        (change(model_version="2"), "version"),
        (change(id="\0"), "id"),
        (classified, "INFO"),
        (typed, "raw_input_contents"),
        (more, "contents"),
        (fewer, "contents"),
        (tagged, "priority"),
        (shared, "shared memory|contents"),
    ):
        with pytest.raises(InvalidInput, match=word):
            checked_message(request, shared_memory=False)


def test_unknown_fields_are_dropped() -> None:
    text = change().SerializeToString()
    request = service_pb2.ModelInferRequest.FromString(text + b"\xfa\x7f\x03abc")
    kept = checked_message(request, shared_memory=False).SerializeToString(deterministic=True)
    assert kept == change().SerializeToString(deterministic=True)


def test_shared_memory_only_where_it_is_open_and_only_for_inputs() -> None:
    memory = {"shared_memory_region": "mine", "shared_memory_byte_size": 9}
    image = {"name": "IMAGE", "datatype": "UINT8", "shape": [9], "parameters": memory}
    with pytest.raises(InvalidInput, match="closed"):
        read({"inputs": [image]})
    assert read({"inputs": [image]}, shared_memory=True)["inputs"] == [image]
    for wrong in ({"shared_memory_byte_size": 8}, {"shared_memory_byte_size": 2**40}):
        with pytest.raises(InvalidInput, match="IMAGE"):
            read({"inputs": [{**image, "parameters": {**memory, **wrong}}]}, shared_memory=True)


def test_a_client_may_not_name_the_memory_of_the_server() -> None:
    check_region("mine", "/psm_1a2b3c4d", 0, 64)
    for key in ("/ois-12-abcd-x", "ois-12-abcd-x", "/../etc/passwd", "/psm_", "", None, 5):
        with pytest.raises(InvalidInput):
            check_region("mine", key, 0, 64)
    for offset, size in ((1, 64), (0, 0), (0, 2**40), (0, "64")):
        with pytest.raises(InvalidInput):
            check_region("mine", "/psm_1a2b3c4d", offset, size)


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_request_or_refused(text: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        read(text)
