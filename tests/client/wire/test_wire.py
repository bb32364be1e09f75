"""Each side reads what the other writes without change, and checks all data from outside."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ois_client import wire
from ois_client.contract import errors
from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import (
    EngineError,
    IncompatibleServer,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    OISError,
    TooManyClicks,
    UnknownImage,
)
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import ImageLimits, load_image
from ois_client.contract.masks import MaskFormat, pack_mask, png_of_mask
from ois_client.contract.transport import Answer, ClickReply, ClickRequest, ModelInfo

MODEL = ModelInfo("tiny", 140, 14, PREPROCESS_VERSION, "ab" * 32, trained=True, engine="numpy")
WIDTH, HEIGHT = 80, 60
GEOMETRY = Geometry.fit(WIDTH, HEIGHT, longest=MODEL.longest)
PICTURE = load_image(np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3))
GREY = load_image(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH))
PNG = load_image(png_of_mask(np.eye(9, 7, dtype=np.uint8)))


def request_for(objects=(((20, 20, True), (30, 10, False)),), **wants):
    points, labels = pack_clicks([[Click(*c) for c in one] for one in objects], WIDTH, HEIGHT)
    grid = (len(objects), GEOMETRY.grid_height, GEOMETRY.grid_width)
    coverage = np.arange(np.prod(grid), dtype=np.uint8).reshape(grid)
    return ClickRequest(
        PICTURE.digest, points, labels, coverage, np.arange(len(objects)) % 2 == 0, **wants
    )


def reply_for(request, seed=0):
    random = np.random.default_rng(seed)
    count = len(request.points)
    size = GEOMETRY.network_height, GEOMETRY.network_width
    maps = sum(bool((row == 1).any()) + int((row == 0).sum()) for row in request.labels)

    def floats(wanted, *shape):
        return random.random(shape, dtype=np.float32) if wanted else None

    return ClickReply(
        random.integers(0, 2, (count, HEIGHT, WIDTH), dtype=np.uint8),
        random.integers(0, 256, request.coverage.shape, dtype=np.uint8),
        {"decode": 1.5},
        floats(request.want_depth, *size),
        floats(request.want_logits, count, *size),
        floats(request.want_order, maps, *size),
        MODEL.model_sha256,
    )


def info_for(digest=PICTURE.digest, **changes):
    info = wire.ReplyInfo(MODEL, digest, WIDTH, HEIGHT, True, {"decode": 1.5})
    return dataclasses.replace(info, **changes)


def assert_same(left, right):
    assert type(left) is type(right)
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b


def tensors_fit(tensors, table):
    for name, array in tensors.items():
        spec = table[name]
        assert array.dtype == spec.dtype
        assert array.ndim == len(spec.dims)
        assert array.flags.c_contiguous


# -- both ends agree ----------------------------------------------------------------------------


click = st.tuples(
    st.floats(0, WIDTH - 1, width=32), st.floats(0, HEIGHT - 1, width=32), st.booleans()
)


@given(
    objects=st.lists(st.lists(click, min_size=1, max_size=5), min_size=1, max_size=4),
    wants=st.fixed_dictionaries({f"want_{w}": st.booleans() for w in wire.WANTS}),
    form=st.sampled_from(MaskFormat),
    session=st.from_regex(r"[\w.:@-]{0,20}", fullmatch=True).filter(str.isascii),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_click_and_its_answer_arrive_as_they_were_sent(objects, wants, form, session, seed):
    request = request_for(objects, **wants, session=session)
    message = wire.click_message(request, mask_format=form)
    tensors_fit(message.tensors, wire.INPUTS)
    assert all(isinstance(value, str) for value in message.parameters.values())
    call = wire.read_call(message.tensors, message.parameters)
    assert_same(call.click_request(GEOMETRY), request)
    assert (call.mask_format, call.session, call.objects) == (form, session, len(objects))

    reply = reply_for(request, seed)
    tensors = wire.write_reply(info_for(), reply, mask_format=form)
    assert list(tensors) == [*message.outputs]
    tensors_fit(tensors, wire.OUTPUTS)
    assert all(array.size for array in tensors.values())
    asked = {name: tensors[name] for name in message.outputs}
    back = wire.read_click_reply(asked, request, mask_format=form)
    packed = tuple(pack_mask(mask) for mask in reply.masks)
    assert back.packed == (packed if form is MaskFormat.PACKED else None)
    assert_same(dataclasses.replace(back, packed=None), reply)


def test_a_coarse_answer_arrives_marked_and_without_a_coverage():
    request = request_for(answer=Answer.COARSE)
    message = wire.click_message(request)
    assert "NEW_COVERAGE" not in message.outputs
    call = wire.read_call(message.tensors, message.parameters)
    assert call.answer is Answer.COARSE
    assert_same(call.click_request(GEOMETRY), request)
    full = reply_for(request)
    reply = dataclasses.replace(full, answer=Answer.COARSE, coverage=np.zeros((1, 0, 0), np.uint8))
    tensors = wire.write_reply(info_for(answer=Answer.COARSE), reply)
    assert list(tensors) == [*message.outputs]
    back = wire.read_click_reply(tensors, request)
    assert_same(dataclasses.replace(back, packed=None), reply)
    for asked, got in ((request, wire.write_reply(info_for(), full)), (request_for(), tensors)):
        with pytest.raises(IncompatibleServer, match="answer to a request for"):
            wire.read_click_reply(got, asked)
    with pytest.raises(InvalidInput, match="coarse"):
        wire.oneshot_message(request, PICTURE)
    with pytest.raises(InvalidInput, match="got answer = 'rough'; expected one of full, coarse"):
        wire.read_call(GOOD, {"ois_answer": "rough"})


def test_a_server_of_an_earlier_release_has_full_answers_only():
    info = json.loads(info_for().to_json())
    for name in ("coarse_answers", "answer", "coverage_scale", "oneshot"):
        del info[name]
    assert wire.ReplyInfo.from_json(json.dumps(info)) == info_for()


@pytest.mark.parametrize("picture", [PICTURE, GREY, PNG], ids=["rgb", "grey", "png"])
def test_a_picture_arrives_with_the_same_digest(picture):
    message = wire.encode_message(picture, session="a:1")
    tensors_fit(message.tensors, wire.INPUTS)
    call = wire.read_call(message.tensors, message.parameters)
    assert call == wire.Call(picture.digest, call.picture, session="a:1") or call.objects == 0
    assert_same(call.picture, picture)
    assert call.digest == picture.digest
    del message.tensors["DIGEST"]
    assert wire.read_call(message.tensors).digest == picture.digest
    tensors = wire.write_reply(info_for(picture.digest))
    reply = wire.read_encode_reply({"INFO": tensors["INFO"]}, picture.digest)
    assert reply.cached
    assert reply.model_sha256 == MODEL.model_sha256


def test_a_click_can_be_sent_with_its_image():
    message = wire.click_message(request_for(), picture=PICTURE)
    call = wire.read_call(message.tensors, message.parameters)
    assert_same(call.picture, PICTURE)
    assert call.objects == 1


def test_a_oneshot_has_every_input_of_the_ensemble_and_empty_means_absent():
    request = request_for()
    message = wire.oneshot_message(request, PNG)
    assert message.model == wire.ONESHOT_MODEL
    assert tuple(message.tensors) == wire.ONESHOT_INPUTS
    assert message.tensors["IMAGE_SHAPE"].shape == (0,)
    np.testing.assert_array_equal(message.tensors["COVERAGE"], request.coverage)
    first = dataclasses.replace(request, has_previous=np.zeros(1, np.bool_))
    message = wire.oneshot_message(first, PICTURE)
    assert message.tensors["IMAGE_SHAPE"].tolist() == [HEIGHT, WIDTH, 3]
    assert message.tensors["COVERAGE"].shape == (0, 0, 0)
    assert message.tensors["HAS_PREVIOUS"].shape == (0,)
    with pytest.raises(InvalidInput, match="returns masks and coverage only"):
        wire.oneshot_message(request_for(want_order=True), PICTURE)


def test_a_server_says_whether_it_has_the_ensemble():
    for has_it in (True, False):
        info = wire.ReplyInfo(MODEL, oneshot=has_it)
        assert wire.ReplyInfo.from_json(info.to_json()).oneshot is has_it
    earlier = {name: each for name, each in json.loads(info.to_json()).items() if name != "oneshot"}
    assert wire.ReplyInfo.from_json(json.dumps(earlier)).oneshot is False


def test_a_request_without_inputs_asks_for_the_description():
    message = wire.info_message()
    call = wire.read_call(message.tensors, message.parameters)
    assert (call.digest, call.picture, call.objects) == (None, None, 0)
    tensors = wire.write_reply(wire.ReplyInfo(MODEL))
    assert tensors.keys() == {"INFO"}
    assert wire.read_info(tensors).model == MODEL


def test_clicks_alone_are_a_first_click():
    request = request_for()
    tensors = wire.click_message(request).tensors
    del tensors["COVERAGE"], tensors["HAS_PREVIOUS"]
    first = wire.read_call(tensors).click_request(GEOMETRY)
    assert first.coverage.shape == request.coverage.shape
    assert not first.coverage.any()
    assert not first.has_previous.any()


def test_json_requests_have_text_as_str():
    tensors = wire.click_message(request_for()).tensors
    tensors["DIGEST"] = np.array([PICTURE.digest], dtype=np.object_)
    assert wire.read_call(tensors).digest == PICTURE.digest


# -- the server checks requests ------------------------------------------------------------------


def array(values, dtype):
    return np.array(values, dtype=dtype)


GOOD = wire.click_message(request_for()).tensors
RAW = wire.encode_message(PICTURE).tensors


@pytest.mark.parametrize(
    ("tensors", "kind", "message"),
    [
        (GOOD | {"EXTRA": array([1], np.float32)}, InvalidInput, "unknown tensor 'EXTRA'"),
        (GOOD | {"POINTS": GOOD["POINTS"].astype(np.float64)}, InvalidInput, "FP32"),
        (GOOD | {"POINTS": GOOD["POINTS"][0]}, InvalidInput, r"POINTS of shape \(2, 2\)"),
        (GOOD | {"POINTS": GOOD["POINTS"][..., :1]}, InvalidInput, "POINTS of shape"),
        (GOOD | {"LABELS": GOOD["LABELS"][:, :1]}, InvalidClick, "LABELS of shape"),
        ({k: v for k, v in GOOD.items() if k != "LABELS"}, InvalidClick, "LABELS missing"),
        ({k: v for k, v in GOOD.items() if k != "POINTS"}, InvalidInput, "without POINTS"),
        ({k: v for k, v in GOOD.items() if k != "DIGEST"}, InvalidInput, "without DIGEST"),
        ({k: v for k, v in GOOD.items() if k != "COVERAGE"}, InvalidInput, "both or neither"),
        (GOOD | {"HAS_PREVIOUS": array([True] * 2, bool)}, InvalidInput, "HAS_PREVIOUS of 2"),
        (GOOD | {"DIGEST": array([b"zz"], object)}, InvalidInput, "got the DIGEST 'zz'"),
        (GOOD | {"DIGEST": array([b"\xff"], object)}, InvalidInput, "got the DIGEST"),
        (GOOD | {"DIGEST": array([b"a", b"b"], object)}, InvalidInput, "DIGEST of shape"),
        (
            {
                "POINTS": np.zeros((0, 3, 2), np.float32),
                "LABELS": np.zeros((0, 3), np.int32),
            },
            InvalidInput,
            "got 0 objects",
        ),
        (
            {
                "POINTS": np.zeros((1, 0, 2), np.float32),
                "LABELS": np.zeros((1, 0), np.int32),
            },
            InvalidInput,
            "without a click",
        ),
        (
            {
                "POINTS": np.zeros((33, 1, 2), np.float32),
                "LABELS": np.zeros((33, 1), np.int32),
            },
            InvalidInput,
            "got 33 objects",
        ),
        (
            {
                "POINTS": np.zeros((1, 10**6, 2), np.float32),
                "LABELS": np.zeros((1, 10**6), np.int32),
            },
            TooManyClicks,
            "got 1000000 clicks",
        ),
        (RAW | {"DIGEST": array([b"0" * 64], object)}, InvalidImage, "got the DIGEST 0000"),
        ({"IMAGE_SHAPE": RAW["IMAGE_SHAPE"]}, InvalidInput, "without IMAGE"),
        (RAW | {"IMAGE_SHAPE": array([60, 80], np.int32)}, InvalidImage, "expected .H, W, C"),
        (RAW | {"IMAGE_SHAPE": array([60, 80, 4], np.int32)}, InvalidImage, "IMAGE_SHAPE"),
        (RAW | {"IMAGE_SHAPE": array([-60, -80, 3], np.int32)}, InvalidImage, "IMAGE_SHAPE"),
        (RAW | {"IMAGE_SHAPE": array([60, 81, 3], np.int32)}, InvalidImage, "14400 bytes of raw"),
        (RAW | {"IMAGE_SHAPE": array([2**31 - 1] * 2 + [3], np.int32)}, InvalidImage, "needs"),
        ({"IMAGE": np.zeros(0, np.uint8)}, InvalidImage, "0 bytes"),
        ({"IMAGE": np.zeros(99, np.uint8)}, InvalidImage, "image bytes"),
    ],
)
def test_a_wrong_request_is_a_typed_error(tensors, kind, message):
    with pytest.raises(kind, match=message) as caught:
        wire.read_call(tensors)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ({"ois_contract": "2"}, IncompatibleServer),
        ({"ois_contract": None}, IncompatibleServer),
        ({"ois_mask_format": "jpeg"}, InvalidInput),
        ({"ois_want": "depth,colour"}, InvalidInput),
        ({"ois_maskformat": "png"}, InvalidInput),
        ({"ois_session": "two\nlines"}, InvalidInput),
        ({"ois_session": "x" * 129}, InvalidInput),
    ],
)
def test_wrong_parameters_are_typed_errors(parameters, kind):
    with pytest.raises(kind):
        wire.read_call(GOOD, parameters)


def test_parameters_of_triton_and_numbers_as_text_are_accepted():
    call = wire.read_call(GOOD, {"triton_final_response": True, "ois_contract": 1, "timeout": 5})
    assert call.mask_format is MaskFormat.PACKED


def test_limits_hold_for_encoded_and_raw_images():
    for picture in (PICTURE, PNG):
        tensors = wire.encode_message(picture).tensors
        with pytest.raises(InvalidImage, match="limit"):
            wire.read_call(tensors, limits=ImageLimits(max_pixels=50))
        with pytest.raises(InvalidImage, match="limit"):
            wire.read_call(tensors, limits=ImageLimits(max_bytes=50))


def test_a_call_without_clicks_is_no_click_request():
    with pytest.raises(InvalidInput, match="without clicks"):
        wire.read_call(RAW).click_request(GEOMETRY)


dtypes = st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.bool_])
anything = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)


@given(
    changed=st.dictionaries(st.sampled_from([*wire.INPUTS]), anything, min_size=1, max_size=3),
    base=st.sampled_from([GOOD, RAW, {}]),
    parameters=st.dictionaries(
        st.sampled_from(wire.PARAMETERS), st.text(max_size=9) | st.integers() | st.none()
    ),
)
@settings(max_examples=300, deadline=None)
def test_any_request_is_a_call_or_a_typed_error(changed, base, parameters):
    try:
        call = wire.read_call({**base, **changed}, parameters)
        if call.objects:
            call.click_request(GEOMETRY)
    except (InvalidInput, IncompatibleServer):
        pass


# -- the client checks replies -------------------------------------------------------------------


def text(data):
    return np.frombuffer(data, dtype=np.uint8)


REQUEST = request_for(want_depth=True, want_logits=True, want_order=True)
REPLY = wire.write_reply(info_for(), reply_for(REQUEST))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"INFO": None}, "no INFO"),
        ({"INFO": text(b"{")}, "Is this an OIS server"),
        ({"INFO": text(b"[1]")}, "Is this an OIS server"),
        ({"INFO": text(b'{"contract": 1}')}, "network = None; expected str"),
        ({"INFO": text(b"\xff\xfe")}, "Is this an OIS server"),
        ({"INFO": text(b"")}, "Is this an OIS server"),
        ({"INFO": text(b"[" * 100_000)}, "Is this an OIS server"),
        ({"INFO": array([b"{}"], object)}, "INFO of shape"),
        ({"MASKS": REPLY["MASKS"][:-1]}, "bytes of masks"),
        ({"MASK_SIZES": REPLY["MASK_SIZES"] - 1}, "bytes of masks"),
        ({"MASK_SIZES": array([-1], np.int64)}, "bytes of masks"),
        ({"MASK_SIZES": array([600, 0], np.int64)}, "MASK_SIZES of shape"),
        ({"NEW_COVERAGE": REPLY["NEW_COVERAGE"][:, 1:]}, "NEW_COVERAGE of shape"),
        ({"NEW_COVERAGE": REPLY["NEW_COVERAGE"].astype(np.int8)}, "wrong type"),
        ({"DEPTH": None}, "no DEPTH"),
        ({"DEPTH": REPLY["DEPTH"][:0]}, "DEPTH of shape"),
        ({"LOGITS": REPLY["LOGITS"][:, :5]}, "LOGITS of shape"),
        ({"ORDER": REPLY["ORDER"][:1]}, "ORDER of shape"),
    ],
)
def test_a_reply_that_does_not_fit_raises_incompatible_server(changes, message):
    tensors = {name: array for name, array in {**REPLY, **changes}.items() if array is not None}
    with pytest.raises(IncompatibleServer, match=message):
        wire.read_click_reply(tensors, REQUEST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contract": 2}, "contract 2"),
        ({"preprocess_version": "0:squashed"}, "'0:squashed'"),
        ({"longest": 141}, "141 pixels"),
        ({"patch": 0}, "patches of 0"),
        ({"longest": True}, "longest = True"),
        ({"longest": "140"}, "longest = '140'"),
        ({"trained": 1}, "trained = 1"),
        ({"coarse_answers": 1}, "coarse_answers = 1"),
        ({"answer": ["full"]}, "answer = "),
        ({"answer": "rough"}, "answer = 'rough'"),
        ({"width": 0}, "masks of 0x60"),
        ({"width": -1, "height": -1}, "-1x-1"),
        ({"width": 10**6, "height": 10**6}, "1000000x1000000"),
        ({"width": 60, "height": 80}, "NEW_COVERAGE|bytes"),
        ({"digest": "f" * 64}, "the image ffff"),
    ],
)
def test_an_incompatible_server_is_explained(changes, message):
    info = json.dumps(json.loads(info_for().to_json()) | changes).encode()
    with pytest.raises(IncompatibleServer, match=message):
        wire.read_click_reply({**REPLY, "INFO": text(info)}, REQUEST)


def test_fields_of_a_later_release_are_ignored():
    info = json.loads(info_for().to_json()) | {"colour": "blue"}
    info["timings_ms"] |= {"odd": None, "nan": float("nan")}
    assert wire.ReplyInfo.from_json(json.dumps(info)) == info_for()


def test_masks_in_another_format_than_requested_are_refused():
    tensors = wire.write_reply(info_for(), reply_for(REQUEST), mask_format=MaskFormat.PNG)
    with pytest.raises(IncompatibleServer, match="a mask that cannot be read"):
        wire.read_click_reply(tensors, REQUEST)


@given(
    changed=st.dictionaries(st.sampled_from([*wire.OUTPUTS]), anything, min_size=1, max_size=3),
    form=st.sampled_from(MaskFormat),
)
@settings(max_examples=300, deadline=None)
def test_any_reply_is_read_or_raises_incompatible_server(changed, form):
    try:
        reply = wire.read_click_reply({**REPLY, **changed}, REQUEST, mask_format=form)
    except IncompatibleServer:
        return
    assert reply.masks.shape == (1, HEIGHT, WIDTH)


# -- errors ---------------------------------------------------------------------------------------


def every_error(root=OISError):
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every_error(child)


@pytest.mark.parametrize("kind", [*every_error()], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("prefix", ["", "in ensemble 'x', Model ort_b - Error when running: "])
def test_an_error_arrives_as_it_was_raised(kind, prefix):
    back = wire.error_from_text(prefix + wire.error_text(kind("got σ = 1; expected\n2: OIS:X: y")))
    assert type(back) is kind
    assert str(back) == "got σ = 1; expected\n2: OIS:X: y"


@pytest.mark.parametrize("text", ["", "Socket closed", "OIS: no", "OIS:X:y", "ois:INVALID: x"])
def test_text_of_others_is_not_read_as_an_error(text):
    assert wire.error_from_text(text) is None


def test_an_error_contains_no_traceback_no_path_and_no_text_of_other_libraries():
    text = wire.error_text(ValueError("secret /home/user/x.py"))
    assert "secret" not in text
    assert "ValueError" in text
    error = EngineError("no engine at /srv/models/a b/x.onnx (from /etc/ois.conf); 3 px/patch")
    text = wire.error_text(error)
    assert "/srv" not in text
    assert "/etc" not in text
    assert "3 px/patch" in text
    assert len(wire.error_text(InvalidImage("x" * 10**6)).encode()) < 2000


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownImage(""), "NOT_FOUND"),
        (InvalidClick(""), "INVALID_ARG"),
        (TooManyClicks(""), "INVALID_ARG"),
        (InvalidImage(""), "INVALID_ARG"),
        (IncompatibleServer(""), "INVALID_ARG"),
        (errors.ServerOverloaded(""), "UNAVAILABLE"),
        (errors.DeadlineExceeded(""), "UNAVAILABLE"),
        (EngineError(""), "INTERNAL"),
        (RuntimeError(""), "INTERNAL"),
    ],
)
def test_every_error_has_the_nearest_code_of_triton(error, code):
    assert wire.triton_code(error) == code
