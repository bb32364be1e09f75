"""Our gRPC and HTTP messages equal those of Triton's own client, tensors byte for byte."""

import dataclasses
import json
import re
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from ois_client import wire
from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import IncompatibleServer, ServerUnavailable
from ois_client.contract.images import load_image
from ois_client.contract.transport import Cancellation, ClickRequest
from ois_client.transports import grpc, http
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, TritonOptions
from ois_client.wire.schema import from_bytes, to_bytes

PICTURE = load_image(np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3))


def messages():
    points, labels = pack_clicks([[Click(3, 4), Click(5, 6, False)], [Click(1.5, 2)]], 80, 60)
    coverage = np.arange(2 * 8 * 10, dtype=np.uint8).reshape(2, 8, 10)
    request = ClickRequest(
        PICTURE.digest, points, labels, coverage, np.array([True, False]), want_depth=True
    )
    return [
        wire.info_message(),
        wire.encode_message(PICTURE, session="a"),
        wire.click_message(request),
        wire.click_message(request, picture=PICTURE),
        wire.oneshot_message(dataclasses.replace(request, want_depth=False), PICTURE),
    ]


def theirs(library, message):
    """The inputs and outputs of `message`, built with the classes of Triton's client."""
    inputs = []
    for name, array in message.tensors.items():
        item = library.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(array)
        inputs.append(item)
    return inputs, [library.InferRequestedOutput(name) for name in message.outputs]


@pytest.mark.parametrize("message", messages(), ids=["info", "encode", "click", "both", "oneshot"])
def test_grpc_requests_equal_theirs(message):
    from tritonclient.grpc._utils import _get_inference_request

    inputs, outputs = theirs(triton_grpc, message)
    expected = _get_inference_request(
        message.model, inputs, "", "", outputs, 0, False, False, 0, None, message.parameters
    )
    assert grpc.infer_request(Infer(message, {}, 1, 1)) == expected


@pytest.mark.parametrize("message", messages()[1:], ids=["encode", "click", "both", "oneshot"])
def test_http_requests_equal_theirs(message):
    inputs, outputs = theirs(triton_http, message)
    body, length = triton_http.InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, parameters=dict(message.parameters)
    )
    ours = http.infer_request(Infer(message, {"x": "y"}, 1, 1), "tok")
    end = int(ours.headers[http.JSON_LENGTH])
    assert json.loads(ours.body[:end]) == json.loads(body[:length])
    assert ours.body[end:] == body[length:]
    assert ours.path == f"/v2/models/{message.model}/infer"
    assert ours.headers["x"] == "y"
    assert ours.headers["authorization"] == "tok"
    assert "x-www-form-urlencoded" not in ours.headers["content-type"]


def test_grpc_sends_the_token_under_both_names():
    pairs = grpc.metadata({"a": "b"}, "tok")
    assert sorted(pairs) == [
        ("a", "b"),
        ("authorization", "tok"),
        ("triton-grpc-protocol-authorization", "tok"),
    ]
    assert grpc.metadata({}, None) == []


arrays = {
    "INFO": np.frombuffer(b'{"a": 1}', dtype=np.uint8),
    "MASK_SIZES": np.array([3, 4], dtype=np.int64),
    "NEW_COVERAGE": np.zeros((2, 0, 3), dtype=np.uint8),
    "DEPTH": np.arange(6, dtype=np.float32).reshape(2, 3),
}


def test_replies_are_read_over_grpc():
    response = service_pb2.ModelInferResponse()
    for name, array in arrays.items():
        datatype = wire.OUTPUTS[name].datatype
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(to_bytes(array))
    same(grpc.tensors_of(response), arrays)
    response.raw_output_contents.pop()
    with pytest.raises(IncompatibleServer, match="4 outputs and 3 contents"):
        grpc.tensors_of(response)


@pytest.mark.parametrize("binary", [True, False])
def test_replies_are_read_over_http(binary):
    outputs, contents = [], []
    for name, array in arrays.items():
        one = {"name": name, "datatype": wire.OUTPUTS[name].datatype, "shape": array.shape}
        if binary:
            contents.append(to_bytes(array))
            one["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            one["data"] = array.ravel().tolist()
        outputs.append(one)
    text = json.dumps({"outputs": outputs}).encode()
    length = str(len(text)) if binary else None
    read = http.tensors_of(b"".join([text, *contents]), length)
    same(read, arrays)


def same(left, right):
    assert left.keys() == right.keys()
    for name, array in right.items():
        assert left[name].dtype == array.dtype
        np.testing.assert_array_equal(left[name], array)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"<html>", None),
        (b"[]", None),
        (b'{"outputs": 3}', None),
        (b"[" * 100_000, None),
        (
            b'{"outputs":[{"name":"MASK_SIZES","datatype":"INT64","shape":[1],"data":[%d]}]}'
            % (2**90),
            None,
        ),
        (b'{"outputs": [{"name": "X"}]}', None),
        (b'{"outputs": [{"name":"X","datatype":"FP32","shape":[1],"data":[1]}]}', None),
        (b'{"outputs": []}', "many"),
    ],
)
def test_an_answer_that_is_not_triton_s_is_an_incompatible_server(body, length):
    with pytest.raises(IncompatibleServer, match="not Triton's"):
        http.tensors_of(body, length)


@given(elements=st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_bytes_tensors_survive_a_round_trip(elements):
    array = np.array(elements, dtype=np.object_)
    back = from_bytes("DIGEST", "BYTES", [len(elements)], to_bytes(array))
    assert back.tolist() == elements


@given(
    datatype=st.sampled_from(["BYTES", "UINT8", "FP32", "INT64", "BOOL", "FP16", ""]),
    shape=st.lists(st.integers(-2, 5), max_size=3),
    data=st.binary(max_size=40),
)
def test_mismatching_sizes_are_an_incompatible_server(datatype, shape, data):
    try:
        array = from_bytes("X", datatype, shape, data)
    except IncompatibleServer:
        return
    assert array.ndim == len(shape)


# -- an answer belongs to its request -------------------------------------------------------------


def answer_to(request_id):
    return json.dumps({"id": request_id, "outputs": []}).encode()


def test_the_answer_to_another_request_is_not_taken():
    with pytest.raises(ServerUnavailable, match="another request"):
        http.tensors_of(answer_to("a"), None, "b")
    assert http.tensors_of(answer_to("b"), None, "b") == {}
    assert http.tensors_of(b'{"outputs": []}', None, "b") == {}  # a server that repeats no ids


def test_a_connection_that_delivers_an_answer_twice_gives_no_wrong_one():
    """Over HTTP/1.1 the second copy would be the answer to the next request."""
    ids, closed = [], threading.Event()

    def read(connection):
        head, _, body = connection.recv(2**16).partition(b"\r\n\r\n")
        (size,) = re.findall(rb"content-length: (\d+)", head, re.I)[:1]
        while len(body) < int(size):
            body += connection.recv(2**16)
        ids.append(json.loads(body)["id"])

    def reply(connection, text):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    def serve():
        first, _ = listening.accept()
        with first:
            read(first)
            reply(first, answer_to(ids[0]))
            read(first)
            reply(first, answer_to(ids[0]))
        closed.set()
        second, _ = listening.accept()
        with second:
            read(second)
            reply(second, answer_to(ids[2]))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        sent = http.BlockingHttp(
            Address("http", "127.0.0.1", listening.getsockname()[1]), TritonOptions()
        )
        infer = Infer(wire.info_message(), {}, 20, 20)
        assert sent.infer(infer, Cancellation()) == {}
        with pytest.raises(ServerUnavailable, match="another request"):
            sent.infer(infer, Cancellation())
        assert closed.wait(20)
        assert sent.infer(infer, Cancellation()) == {}
        sent.close()
        thread.join()
    assert len(set(ids)) == 3
