"""The remote model for X-AnyLabeling: its answers, and requests as the tool may send them."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ois_client import Client, InvalidInput, ServerUnavailable
from ois_client.formats.polygons import Ring, mask_of_rings
from remote_server import MAX_BODY_BYTES, RemoteModel, make_server
from support.tiny_engines import write_engines
from x_anylabeling_format import SUGGESTION, read_fineness, read_marks, shapes_of_mask

WIDTH, HEIGHT = 120, 90
PIXELS = np.random.default_rng(8).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(f"local:{write_engines(tmp_path_factory.mktemp('engines'))}", threads=1) as client:
        yield client


def image() -> str:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def request(*marks: tuple[float, float, int], **changes: Any) -> dict[str, Any]:
    """As X-AnyLabeling sends it."""
    points = [{"type": "point", "data": [x, y], "label": label} for x, y, label in marks]
    params = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.0, "marks": points}
    return {"model": "ois", "image": image(), "params": params, **changes}


@contextmanager
def running(model: RemoteModel, token: str = "") -> Iterator[int]:
    server = make_server(model, token=token)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(
    port: int, path: str, body: object = None, **headers: str
) -> tuple[int, str, dict[str, Any]]:
    """-> status, the words of the status line, and the JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, data, headers)
        reply = connection.getresponse()
        return reply.status, reply.reason, json.loads(reply.read())
    finally:
        connection.close()


def mask_of(shapes: list[dict[str, Any]]) -> np.ndarray:
    rings = [Ring(np.array(shape["points"][:-1]), hole=False) for shape in shapes]
    return mask_of_rings(rings, WIDTH, HEIGHT)


def test_every_click_is_one_click_of_a_session(client: Client) -> None:
    clicks = [(60, 45, 1), (5, 5, 0), (70, 50, 1)]
    session = client.open(PIXELS)
    with running(RemoteModel(client)) as port:
        for count in range(1, len(clicks) + 1):
            status, _, answer = ask(port, "/v1/predict", request(*clicks[:count]))
            x, y, label = clicks[count - 1]
            assert (status, answer["success"]) == (200, True)
            assert answer["data"]["replace"] is False  # finished objects stay
            shapes = answer["data"]["shapes"]
            assert {(s["label"], s["shape_type"]) for s in shapes} == {(SUGGESTION, "polygon")}
            np.testing.assert_array_equal(mask_of(shapes), session.click(x, y, label == 1))


def test_the_model_offers_clicks_and_keeps_what_is_there(client: Client) -> None:
    with running(RemoteModel(client)) as port:
        _, _, answer = ask(port, "/v1/models")
        model = answer["data"]["ois"]
    widgets = {widget["name"]: widget["value"] for widget in model["widgets"]}
    assert {"button_add_point", "button_remove_point", "button_finish_object"} <= widgets.keys()
    assert "button_add_rect" not in widgets
    assert widgets["toggle_preserve_existing_annotations"] is True
    assert model["display_name"] == f"OIS {client.info.network}"


@pytest.mark.parametrize("marks", [(), ((5, 5, 0),)], ids=["none", "only a negative one"])
def test_without_a_positive_click_there_is_no_shape(client: Client, marks: Any) -> None:
    assert RemoteModel(client).predict(request(*marks))["shapes"] == []


BAD = {
    "a box": (
        request(params={"marks": [{"type": "rectangle", "data": [1, 1, 9, 9]}]}),
        "rectangle",
    ),
    "outside": (request((500, 45, 1)), "500"),
    "not numbers": (request(("a", 45, 1)), "[x, y]"),  # type: ignore[arg-type]
    "not a label": (request((5, 45, 7)), "1 or 0"),
    "too many": (request(*[(n, 45, 1) for n in range(25)]), "25 positive clicks"),
    "another model": (request((5, 5, 1), model="sam"), "'sam'"),
    "no image": (request((5, 5, 1), image=None), "base64"),
    "not base64": (request((5, 5, 1), image="data:image/png;base64,#"), "base64"),
    "not an image": (request((5, 5, 1), image="aGVsbG8="), "image"),
    "fineness": (request(params={"epsilon_factor": "x"}), "epsilon_factor"),
    "no params": (request(params=[]), "params"),
    "no object": ([1], "list"),
    "no JSON": (b"{", "JSON"),
}


@pytest.mark.parametrize(("body", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_answered_in_words(client: Client, body: object, words: str) -> None:
    with running(RemoteModel(client)) as port:
        status, reason, answer = ask(port, "/v1/predict", body)
        assert (status, answer["success"]) == (400, False)
        assert words in answer["error"]["message"]
        assert words in reason  # the one place of which X-AnyLabeling's log shows something
        assert ask(port, "/v1/predict", request((60, 45, 1)))[0] == 200


def test_too_large_a_request_is_not_read(client: Client) -> None:
    with running(RemoteModel(client)) as port:
        length = {"Content-Length": str(MAX_BODY_BYTES + 1)}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/v1/predict")
        connection.putheader(*length.popitem())
        connection.endheaders()
        reply = connection.getresponse()
        assert (reply.status, str(MAX_BODY_BYTES) in reply.reason) == (400, True)
        connection.close()


def test_a_wrong_key_gets_nothing(client: Client) -> None:
    with running(RemoteModel(client), token="secret") as port:
        for given_key in ({}, {"Token": "other"}, {"Token": "\xe9"}):
            status, reason, _ = ask(port, "/v1/models", **given_key)
            assert (status, "API key" in reason) == (401, True)
        assert ask(port, "/v1/models", Token="secret")[0] == 200


def test_a_server_that_is_gone_is_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RemoteModel(client)

    def gone(_: object) -> object:
        raise ServerUnavailable("got no answer from grpc://ois:8001")

    monkeypatch.setattr(client, "open", gone)
    with running(model) as port:
        status, reason, _ = ask(port, "/v1/predict", request((60, 45, 1)))
    assert (status, reason) == (503, "got no answer from grpc://ois:8001")


def test_fineness_bounds_the_distance_from_the_mask() -> None:
    y, x = np.mgrid[:200, :200]
    mask = (((x - 100) ** 2 + (y - 90) ** 2 < 70**2) & ((x - 90) ** 2 + (y - 90) ** 2 > 9)).astype(
        np.uint8
    )
    [exact], [coarse] = shapes_of_mask(mask, 0.0), shapes_of_mask(mask, 0.005)
    assert exact["points"][0] == exact["points"][-1]
    assert len(coarse["points"]) < len(exact["points"]) / 4
    filled = mask_of_rings([Ring(np.array(exact["points"][:-1]), hole=False)], 200, 200)
    assert filled[90, 90] == 1  # polygons have no holes
    loss = filled ^ mask_of_rings([Ring(np.array(coarse["points"][:-1]), hole=False)], 200, 200)
    assert loss.sum() < 0.02 * filled.sum()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["params", "model"]),
        JSON | st.dictionaries(st.sampled_from(["marks", "epsilon_factor"]), JSON),
    )
)
def test_any_request_is_read_or_refused_with_a_message(found: dict[str, Any]) -> None:
    for read in (read_marks, read_fineness):
        with suppress(InvalidInput):
            read(found)


def test_the_readme_names_the_files() -> None:
    folder = Path(__file__).resolve().parents[2] / "examples" / "x_anylabeling"
    assert (folder / "remote_server.py").is_file()
    assert "python -m remote_server" in (folder / "README.md").read_text()
