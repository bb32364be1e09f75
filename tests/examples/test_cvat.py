"""The CVAT example, called through Nuclio's and CVAT's own Python packages."""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nuclio_sdk
import numpy as np
import pytest
import yaml
from cvat_sdk import auto_annotation
from cvat_sdk import masks as cvat_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import agent
import interactor
from cvat_format import Points, clicks_in_order, read_request, reply_of_mask
from ois_client import Click, Client, InvalidClick, InvalidInput
from ois_client.formats.cvat import cvat_of_mask
from ois_client.sessions.replay import RecentSessions
from ois_runtime.engines.local import LocalTransport, open_transport
from support.containers.lint import lint_dockerfile
from support.json_damage import damaged
from support.tiny_engines import write_engines

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cvat"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "cvat_interactor.json").read_text())
MASK = np.array([[at == "#" for at in row] for row in GOLDEN["mask"]], dtype=np.uint8)
WIDTH, HEIGHT = 120, 90
PIXELS = np.random.default_rng(8).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
FUNCTION = yaml.safe_load((EXAMPLE / "function.yaml").read_text())


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


# -- formats -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parsed", "text", "bytes"])
def test_the_documented_request_is_read(form: str) -> None:
    request: Any = {**GOLDEN["request"], "image": base64.b64encode(b"image").decode()}
    if form != "parsed":
        request = json.dumps(request)
    image, points = read_request(request.encode() if form == "bytes" else request)
    assert image == b"image"
    clicks = clicks_in_order(points, (), 8, 4)
    assert [[c.x, c.y, c.positive] for c in clicks] == GOLDEN["clicks"]


def test_the_documented_replies_are_written() -> None:
    assert reply_of_mask(MASK) == GOLDEN["reply"]
    assert reply_of_mask(np.zeros((4, 8), np.uint8)) == GOLDEN["reply_of_an_empty_mask"]
    assert cvat_of_mask(MASK) == GOLDEN["agent_points"]
    assert json.loads(json.dumps(reply_of_mask(MASK))) == GOLDEN["reply"]


@pytest.mark.parametrize("page", ["with bounds", "without bounds"])
def test_old_and_new_pages_draw_the_mask_on_the_object(page: str) -> None:
    """Old pages put a mask at its `bounds`; without any, and in new pages, it is the image's."""
    reply = reply_of_mask(MASK)
    left, top = reply.get("bounds", (0, 0))[:2] if page == "with bounds" else (0, 0)
    drawn = np.zeros_like(MASK)
    rows = np.array(reply["mask"])
    drawn[top : top + rows.shape[0], left : left + rows.shape[1]] = rows
    np.testing.assert_array_equal(drawn, MASK)


RIGHT = {"image": "aW1n", "pos_points": [[1, 2]], "neg_points": []}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"text", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (None, "of type NoneType"),
        ([1], "of type list"),
        ({**RIGHT, "image": None}, "without an image"),
        ({**RIGHT, "image": "a"}, "not base64"),
        ({**RIGHT, "image": "!!!!"}, "not base64"),
        ({**RIGHT, "obj_bbox": [[0, 0], [5, 5]]}, "got a box"),
        ({**RIGHT, "pos_points": None}, "got pos_points None"),
        ({**RIGHT, "pos_points": [1, 2]}, r"expected a list of \[x, y\]"),
        ({**RIGHT, "pos_points": [[1, 2, 3]]}, "got pos_points"),
        ({**RIGHT, "neg_points": [["1", 2]]}, "got neg_points"),
        ({**RIGHT, "neg_points": [[True, 2]]}, "got neg_points"),
    ],
)
def test_invalid_requests_are_refused(body: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_request(body)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(body=damaged({**GOLDEN["request"], "image": "aW1n"}))
def test_any_request_is_read_or_refused_with_a_message(body: dict[str, Any]) -> None:
    refused = ""
    try:
        _, points = read_request(body)
        clicks_in_order(points, (), 8, 4)
    except InvalidInput as error:
        refused = str(error)
    assert refused == "" or len(refused) > 20


def test_points_outside_the_image_are_refused() -> None:
    for points in (Points(((8.1, 1),), ()), Points(((1, 1),), ((-1, 0),))):
        with pytest.raises(InvalidClick, match="canvas of a 8x4 image"):
            clicks_in_order(points, (), 8, 4)


def points_of(clicks: list[Click]) -> Points:
    signs = [
        tuple((c.x + 0.5, c.y + 0.5) for c in clicks if c.positive is sign)
        for sign in (True, False)
    ]
    return Points(*signs)


@settings(deadline=None, derandomize=True)
@given(
    clicks=st.lists(
        st.builds(Click, st.integers(0, 119), st.integers(0, 89), st.booleans()), max_size=8
    ),
    undone=st.integers(0, 3),
)
def test_the_order_of_clicks_is_remembered(clicks: list[Click], undone: int) -> None:
    """Clicking and undoing, with requests that list positive and negative points separately."""
    before: list[Click] = []
    for count in range(1, len(clicks) + 1):
        before = clicks_in_order(points_of(clicks[:count]), before, WIDTH, HEIGHT)
        assert before == clicks[:count]
    left = clicks[: max(0, len(clicks) - undone)]
    assert clicks_in_order(points_of(left), before, WIDTH, HEIGHT) == left


def test_without_earlier_requests_positive_clicks_come_first() -> None:
    clicks = [Click(1, 1), Click(2, 2, False), Click(3, 3)]
    expected = [Click(1, 1), Click(3, 3), Click(2, 2, False)]
    assert clicks_in_order(points_of(clicks), (), WIDTH, HEIGHT) == expected
    # clicks of another object are ignored
    other = [Click(9, 9), Click(8, 8, False)]
    assert clicks_in_order(points_of(clicks), other, WIDTH, HEIGHT) == expected


# -- Nuclio --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def transport(engines: Path) -> Iterator[LocalTransport]:
    transport = open_transport(str(engines))
    yield transport
    transport.close()


class Lines:
    """Collects what Nuclio's logger writes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def logger(self) -> nuclio_sdk.Logger:
        logger = nuclio_sdk.Logger(10)
        logger.set_handler("test", self, nuclio_sdk.logger.HumanReadableFormatter())
        return logger

    def write(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None: ...


class Worker:
    """One Nuclio worker, which gets CVAT's requests."""

    def __init__(self, transport: LocalTransport) -> None:
        self.log = Lines()
        self.context = nuclio_sdk.Context(self.log.logger())
        self.context.user_data.recent = RecentSessions(Client(transport))

    def ask(self, *clicks: Click, **changes: Any) -> tuple[int, Any]:
        points = points_of(list(clicks))
        body = {
            "image": base64.b64encode(png(PIXELS)).decode(),
            "pos_points": [list(point) for point in points.positive],
            "neg_points": [list(point) for point in points.negative],
            "obj_bbox": None,
            **changes,
        }
        response = interactor.handler(self.context, nuclio_sdk.Event(body=body))
        # What Nuclio's wrapper sends to the processor.
        encoder: Callable[..., str] = json.dumps
        sent = nuclio_sdk.Response.from_entrypoint_output(encoder, response)
        assert sent["content_type"] == "application/json"
        return sent["status_code"], json.loads(sent["body"])


def mask_of_reply(reply: dict[str, Any]) -> np.ndarray:
    mask = np.array(reply["mask"], dtype=np.uint8)
    assert mask.shape == (HEIGHT, WIDTH)
    return mask


CLICKS = [Click(60, 45), Click(5, 5, False), Click(70, 50)]


def test_clicks_are_masks_and_the_image_is_encoded_once(transport: LocalTransport) -> None:
    worker, other = Worker(transport), Worker(transport)
    session, encoded = Client(transport).open(png(PIXELS)), transport.stats().misses
    for count in (1, 2, 3):
        status, reply = worker.ask(*CLICKS[:count])
        assert status == 200
        click = CLICKS[count - 1]
        expected = session.click(click.x, click.y, click.positive)
        np.testing.assert_array_equal(mask_of_reply(reply), expected)
    # Another worker finds the image on the server, and repeats the clicks.
    status, reply = other.ask(*CLICKS[:2])
    session.undo()
    np.testing.assert_array_equal(mask_of_reply(reply), session.mask())
    assert transport.stats().misses == encoded


def test_an_empty_mask_has_an_empty_reply(transport: LocalTransport) -> None:
    removed = [Click(60, 45), *(Click(5, 5 + n, False) for n in range(6))]
    status, reply = Worker(transport).ask(*removed)
    assert (status, reply["points"]) == (200, [])
    assert not mask_of_reply(reply).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_points": []}, "at least one click"),
        ({"pos_points": [[500, 1]]}, "on the canvas"),
        ({"pos_points": [[1, 1]] * 25}, "25 positive clicks"),
        ({"image": base64.b64encode(b"text").decode()}, "image bytes"),
        ({"obj_bbox": [[0, 0], [9, 9]]}, "expected only clicks"),
    ],
)
def test_errors_have_a_message_in_the_reply_and_in_the_log(
    transport: LocalTransport, changes: dict[str, Any], message: str
) -> None:
    worker = Worker(transport)
    status, reply = worker.ask(Click(60, 45), **changes)
    assert status == 400
    assert list(reply) == ["error"]
    assert message in reply["error"]
    assert any(message in line for line in worker.log.lines)
    assert worker.ask(Click(60, 45))[0] == 200


def test_a_worker_starts_from_the_environment(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Lines()
    context = nuclio_sdk.Context(log.logger())
    monkeypatch.setenv("OIS_URL", f"local:{engines}")
    interactor.init_context(context)
    assert isinstance(context.user_data.recent, RecentSessions)
    assert any("clicks go to" in line for line in log.lines)


def test_cvat_recognises_the_function_as_an_interactor() -> None:
    annotations, spec = FUNCTION["metadata"]["annotations"], FUNCTION["spec"]
    assert (annotations["type"], FUNCTION["metadata"]["namespace"]) == ("interactor", "cvat")
    assert int(annotations["version"]) >= 2  # CVAT's page refuses older versions
    assert (annotations["min_pos_points"], annotations["min_neg_points"]) == (1, 0)
    assert "startswith_box" not in annotations
    module, function = spec["handler"].split(":")
    assert getattr(__import__(module), function) is interactor.handler
    body = spec["triggers"]["myHttpTrigger"]["attributes"]["maxRequestBodySize"]
    assert body > 2**26 * 4 / 3  # the server's 64 MiB, in base64


def test_the_base_image_keeps_the_rules() -> None:
    text = (EXAMPLE / "Dockerfile").read_text()
    assert lint_dockerfile(text, ROOT, ()) == []
    assert f"-t {FUNCTION['spec']['build']['baseImage']} " in text


# -- CVAT's agent --------------------------------------------------------------------------


class Prompts(auto_annotation.InteractionPrompts):
    def __init__(self, clicks: list[Click]) -> None:
        self._points = points_of(clicks)

    @property
    def pos_points(self) -> Any:
        return list(self._points.positive)

    @property
    def neg_points(self) -> Any:
        return list(self._points.negative)

    @property
    def bounding_box(self) -> None:
        return None


class Context(auto_annotation.InteractionFunctionContext): ...


def test_the_agent_returns_cvat_s_shapes(transport: LocalTransport) -> None:
    function: auto_annotation.InteractionFunction = agent.OISInteraction(Client(transport))
    assert (function.spec.min_pos_points, function.spec.min_neg_points) == (1, 0)
    assert function.spec.min_bounding_boxes is None  # so CVAT offers no boxes
    picture = function.preprocess_image(Context(), Image.fromarray(PIXELS))
    encoded = transport.stats().misses
    session = Client(transport).open(PIXELS)
    for count in (1, 2, 3, 1):
        [shape] = function.detect(Context(), picture, Prompts(CLICKS[:count]))
        assert isinstance(shape, auto_annotation.InteractionResultShape)
        assert shape.type == "mask"
        mask = cvat_masks.decode_mask(shape.points, image_width=WIDTH, image_height=HEIGHT)
        session.reset()
        for click in CLICKS[:count]:
            expected = session.click(click.x, click.y, click.positive)
        np.testing.assert_array_equal(mask, expected)
    assert transport.stats().misses == encoded
    nothing = [Click(60, 45), *(Click(5, 5 + n, False) for n in range(6))]
    assert function.detect(Context(), picture, Prompts(nothing)) == []


def test_wrong_clicks_reach_the_annotator_in_words(transport: LocalTransport) -> None:
    """CVAT's agent passes on the text of a `BadFunctionError`, and of no error of ours."""
    function = agent.OISInteraction(Client(transport))
    picture = function.preprocess_image(Context(), Image.fromarray(PIXELS))
    for clicks, message in (
        ([Click(200, 45)], "on the canvas of a 120x90 image"),
        ([Click(n, 45) for n in range(25)], "25 positive clicks"),
    ):
        with pytest.raises(auto_annotation.BadFunctionError, match=message) as caught:
            function.detect(Context(), picture, Prompts(clicks))
        # It crosses from the worker's process to the agent's.
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert len(function.detect(Context(), picture, Prompts(CLICKS[:1]))) == 1


def test_cvat_cli_creates_the_function_from_its_parameters(engines: Path) -> None:
    function = agent.create(url=f"local:{engines}")
    picture = function.preprocess_image(Context(), Image.fromarray(PIXELS))
    [shape] = function.detect(Context(), picture, Prompts(CLICKS[:1]))
    assert len(shape.points) > 5
