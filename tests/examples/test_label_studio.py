"""The Label Studio example: requests over HTTP in Label Studio's formats, as it sends them."""

from __future__ import annotations

import copy
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from backend import Backend, make_app
from label_studio_format import (
    Controls,
    prediction_of_mask,
    read_controls,
    read_prompt,
    saved_signs,
)
from ois_client import Client, InvalidInput
from ois_client.formats.brush import mask_of_brush
from ois_client.formats.polygons import Ring, mask_of_rings
from ois_runtime.engines.local import LocalTransport, open_transport
from support.asgi import serving
from support.containers.lint import lint_dockerfile
from support.hosts.label_studio import HEIGHT, LEGACY_TOKEN, WIDTH, Host
from support.json_damage import damaged
from support.tiny_engines import write_engines
from task_images import ImageFetcher

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "label_studio"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "label_studio_predict.json").read_text())
MASK = np.array([[at == "#" for at in row] for row in GOLDEN["mask"]], dtype=np.uint8)


# -- formats -------------------------------------------------------------------------------


def golden_context() -> dict[str, Any]:
    context: dict[str, Any] = copy.deepcopy(GOLDEN["request"]["params"]["context"])
    return context


def test_the_documented_request_is_read() -> None:
    controls = read_controls(GOLDEN["request"]["label_config"])
    assert controls == Controls("brushlabels", "masks", "image", "photo", ("object",))
    prompt = read_prompt(golden_context(), controls)
    assert prompt is not None
    assert [[c.x, c.y, c.positive] for c in prompt.clicks] == GOLDEN["clicks"]
    assert (prompt.label, prompt.width, prompt.height) == (GOLDEN["label"], 8, 4)


def test_the_sign_of_newer_backends_is_read() -> None:
    context = golden_context()
    for region in context["result"]:
        region["value"]["positive"] = region.pop("is_positive")
    prompt = read_prompt(context, read_controls(GOLDEN["request"]["label_config"]))
    assert prompt is not None
    assert [c.positive for c in prompt.clicks] == [True, False, True]


@pytest.mark.parametrize("context", [None, {}, {"result": []}, {"event": "prewarm"}])
def test_without_clicks_there_is_no_prompt(context: Any) -> None:
    assert read_prompt(context, read_controls(GOLDEN["request"]["label_config"])) is None


@pytest.mark.parametrize(
    ("config", "expected"), [("request", "brush"), ("label_config_of_polygons", "polygon")]
)
def test_the_documented_result_is_written(config: str, expected: str) -> None:
    text = GOLDEN["request"]["label_config"] if config == "request" else GOLDEN[config]
    made = prediction_of_mask(MASK, GOLDEN["label"], read_controls(text), "ois-1")
    assert made == GOLDEN[expected]
    assert json.loads(json.dumps(made)) == made


def test_an_empty_mask_has_no_region() -> None:
    for kind in ("brushlabels", "polygonlabels"):
        controls = Controls(kind, "masks", "image", "photo")
        assert prediction_of_mask(np.zeros((4, 8), np.uint8), "a", controls, "v")["result"] == []


def test_the_interface_in_the_documentation_fits() -> None:
    text = (EXAMPLE / "label_config.xml").read_text()
    assert read_controls(text) == Controls(
        "brushlabels", "masks", "image", "image", ("object", "other")
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "expected its XML"),
        ("<View>", "not XML"),
        ("<View/>", "no <BrushLabels> or <PolygonLabels>"),
        ('<View><BrushLabels name="m" toName="t"/><Text name="t"/></View>', "for an <Image>"),
    ],
)
def test_interfaces_without_a_control_for_masks_are_refused(config: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_controls(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "rectanglelabels"}, "expected only clicks"),
        ({"value": None}, "expected only clicks"),
        ({"image_rotation": 90}, "rotated by 90 degrees"),
        ({"original_width": 0}, "expected the image's size"),
        ({"original_width": 10**400}, "expected the image's size"),
        ({"original_height": None}, "expected the image's size"),
        ({"value": {"x": "1", "y": 2, "keypointlabels": ["object"]}}, "percent of the image"),
        ({"value": {"x": 101, "y": 2, "keypointlabels": ["object"]}}, "canvas of a 8x4 image"),
        ({"value": {"x": 10**400, "y": 2, "keypointlabels": ["object"]}}, "far outside"),
        ({"value": {"x": 1, "y": 2, "keypointlabels": []}}, "Choose a label"),
        (
            {"value": {"x": 1, "y": 2, "keypointlabels": ["dog"]}},
            "'dog'; expected a label of <masks>",
        ),
    ],
)
def test_invalid_regions_are_refused_alone_and_left_out_among_others(
    change: dict, message: str
) -> None:
    controls = read_controls(GOLDEN["request"]["label_config"])
    context = golden_context()
    context["result"][-1].update(change)
    if "label of <masks>" not in message:
        prompt = read_prompt(context, controls)
        assert prompt is not None
        assert [[c.x, c.y, c.positive] for c in prompt.clicks] == GOLDEN["clicks"][:-1]
        assert re.search(message, *prompt.left_out)
    context["result"] = context["result"][-1:]
    with pytest.raises(InvalidInput, match=message):
        read_prompt(context, controls)


def test_points_of_another_image_are_left_out() -> None:
    context = golden_context()
    context["result"][-1]["original_width"] = 9
    prompt = read_prompt(context, read_controls(GOLDEN["request"]["label_config"]))
    assert prompt is not None
    assert len(prompt.clicks) == len(GOLDEN["clicks"]) - 1
    assert "different sizes" in prompt.left_out[0]


def test_key_points_of_a_draft_have_its_signs_and_else_their_label_s() -> None:
    """The page sends key points that it has loaded from a draft without `is_positive`."""
    controls = read_controls(GOLDEN["request"]["label_config"])
    context = golden_context()
    drafts = [{"result": copy.deepcopy(context["result"])}]
    for region in context["result"][:2]:
        del region["is_positive"]
    saved = read_prompt(context, controls, saved_signs({"drafts": drafts}))
    unknown = read_prompt(context, controls, saved_signs({"drafts": [{}, None], "annotations": 1}))
    assert saved is not None
    assert unknown is not None
    assert [[c.x, c.y, c.positive] for c in saved.clicks] == GOLDEN["clicks"]
    # A point with a label of the masks is on the object.
    assert [c.positive for c in unknown.clicks] == [True, True, True]
    assert saved.left_out == unknown.left_out == ()


@settings(deadline=None, derandomize=True, max_examples=400)
@given(request=damaged(GOLDEN["request"]))
def test_any_request_is_read_or_refused_with_a_message(request: dict[str, Any]) -> None:
    params, refused = request.get("params"), ""
    try:
        controls = read_controls(request.get("label_config"))
        read_prompt(params.get("context") if isinstance(params, dict) else params, controls)
    except InvalidInput as error:
        refused = str(error)
    assert refused == "" or len(refused) > 20


# -- the backend ---------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTransport]:
    transport = open_transport(str(write_engines(tmp_path_factory.mktemp("engines"))))
    yield transport
    transport.close()


@pytest.fixture
def backend(host: Host, transport: LocalTransport) -> Backend:
    return Backend(Client(transport), ImageFetcher(host.url(host.studio), LEGACY_TOKEN))


@pytest.fixture
def url(backend: Backend) -> Iterator[str]:
    with serving(make_app(backend)) as url:
        yield url


def ask(url: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def predict_request(
    *clicks: tuple[float, float, bool], image: str = "/data/upload/1/0.jpg", polygons: bool = False
) -> dict[str, Any]:
    """clicks: x, y in pixels of the image, positive."""
    request: dict[str, Any] = copy.deepcopy(GOLDEN["request"])
    request["tasks"][0]["data"]["photo"] = image
    if polygons:
        request["label_config"] = GOLDEN["label_config_of_polygons"]
    region = request["params"]["context"]["result"][0]
    region.update(original_width=WIDTH, original_height=HEIGHT)
    request["params"]["context"]["result"] = []
    for x, y, positive in clicks:
        one = copy.deepcopy(region)
        one["is_positive"] = positive
        one["value"].update(x=100 * (x + 0.5) / WIDTH, y=100 * (y + 0.5) / HEIGHT)
        request["params"]["context"]["result"].append(one)
    return request


def test_label_studio_connects(url: str, backend: Backend) -> None:
    for path in ("/", "/health"):
        assert ask(url + path) == (200, {"status": "UP", "model_class": "OISDeploy"})
    setup = {"project": "1.17", "schema": GOLDEN["request"]["label_config"], "hostname": "x"}
    status, body = ask(url + "/setup", setup)
    assert (status, body) == (200, {"model_version": backend.model_version})
    status, body = ask(url + "/setup", {**setup, "schema": "<View/>"})
    assert (status, body["code"]) == (400, "INVALID_INPUT")
    assert "BrushLabels" in body["detail"]
    assert ask(url + "/webhook", {"action": "ANNOTATION_CREATED"})[0] == 200


def test_clicks_are_masks_and_the_image_is_fetched_and_encoded_once(
    url: str, host: Host, transport: LocalTransport
) -> None:
    session = Client(transport).open(host.images["/data/upload/1/1.jpg"])
    encoded = transport.stats().misses
    clicks = [(60, 45, True), (5, 5, False), (70, 50, True)]
    for count in (1, 2, 3):
        request = predict_request(*clicks[:count], image="/data/upload/1/1.jpg")
        status, body = ask(url + "/predict", request)
        assert status == 200
        [[region]] = [one["result"] for one in body["results"]]
        mask = mask_of_brush(region["value"]["rle"], WIDTH, HEIGHT)
        x, y, positive = clicks[count - 1]
        np.testing.assert_array_equal(mask, session.click(x, y, positive))
    assert transport.stats().misses == encoded
    assert [path for _, path, _ in host.seen] == ["/data/upload/1/1.jpg"]


def test_polygons_surround_the_mask(url: str, host: Host, transport: LocalTransport) -> None:
    status, body = ask(url + "/predict", predict_request((60, 45, True), polygons=True))
    assert status == 200
    rings = [
        Ring(np.array(region["value"]["points"]) * [WIDTH / 100, HEIGHT / 100], False)
        for region in body["results"][0]["result"]
    ]
    mask = Client(transport).open(host.images["/data/upload/1/0.jpg"]).click(60, 45)
    drawn = mask_of_rings(rings, WIDTH, HEIGHT)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.95


def test_without_clicks_each_task_has_an_empty_prediction(
    url: str, host: Host, backend: Backend
) -> None:
    for context in (None, {}, {"result": []}):
        request = predict_request()
        request["params"]["context"] = context
        for count in (1, 3):
            request["tasks"] = request["tasks"][:1] * count
            status, body = ask(url + "/predict", request)
            # Label Studio logs an error for every task without an entry.
            assert (status, len(body["results"])) == (200, count)
            assert all(one["result"] == [] for one in body["results"])
            assert all(one["model_version"] == backend.model_version for one in body["results"])
    assert host.seen == []


@pytest.mark.parametrize(
    ("change", "status", "code", "message"),
    [
        ({"tasks": []}, 400, "INVALID_INPUT", "got no task"),
        ({"tasks": [{"id": 7}]}, 400, "INVALID_INPUT", "a task without data"),
        ({"tasks": [{"id": 7, "data": {}}]}, 400, "INVALID_INPUT", "got the image None"),
        ({"label_config": "<View"}, 400, "INVALID_INPUT", "not XML"),
        ({"label_config": "\ud800"}, 400, "INVALID_INPUT", "not JSON in Unicode"),
        ({"label_config": [1] * 1000}, 400, "INVALID_INPUT", "expected its XML"),
        (
            {"tasks": [{"id": 7, "data": {"photo": "/data/upload/1/none.jpg"}}]},
            400,
            "INVALID_IMAGE",
            "answers 404",
        ),
        (
            {"tasks": [{"id": 7, "data": {"photo": "http://127.0.0.1:1/a.jpg"}}]},
            503,
            "SERVER_UNAVAILABLE",
            "cannot be reached",
        ),
    ],
)
def test_errors_have_a_message(
    url: str, change: dict[str, Any], status: int, code: str, message: str
) -> None:
    got, body = ask(url + "/predict", {**predict_request((60, 45, True)), **change})
    assert (got, body["status"], body["code"]) == (status, status, code)
    assert message in body["detail"]
    assert "Traceback" not in body["detail"]
    assert len(body["detail"]) < 400


def test_deeply_nested_json_is_refused(url: str) -> None:
    for path in ("/setup", "/predict"):
        status, body = ask(url + path, b"[" * 100_000)
        assert (status, body["code"]) == (400, "INVALID_INPUT")


def test_bodies_that_are_not_requests_are_refused(url: str) -> None:
    for body in (b"", b"text", b"[1]"):
        status, answer = ask(url + "/predict", body)
        assert (status, answer["code"]) == (400, "INVALID_INPUT")
    request = predict_request((60, 45, True))
    request["params"]["context"]["result"][0]["original_width"] = 121
    status, answer = ask(url + "/predict", request)
    assert status == 400
    assert "both read the same file" in answer["detail"]


def test_a_password_is_required_if_one_is_set(backend: Backend) -> None:
    with serving(make_app(backend, "ada", "secret")) as url:
        assert ask(url + "/health")[0] == 401
        wrong = {"Authorization": "Basic YWRhOndyb25n"}
        status, body = ask(url + "/predict", predict_request(), wrong)
        assert (status, body["code"]) == (401, "ACCESS_DENIED")
        assert ask(url + "/health", headers={"Authorization": "Basic YWRhOnNlY3JldA=="})[0] == 200


def test_the_container_keeps_the_rules() -> None:
    text = (EXAMPLE / "Dockerfile").read_text()
    assert lint_dockerfile(text, ROOT, ("backend",)) == []
    assert "backend.py" in text
