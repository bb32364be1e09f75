"""Damaged requests to everything that listens: no crash, no hang, and every answer is typed.

    `ois serve` over HTTP and gRPC: its own ports, where the front is, and nginx before them
    the gateway of the demo, over HTTP
    the Label Studio example, over HTTP; the CVAT example, through Nuclio's own package

The short form is part of every test run. The long form, as in `support/fuzz/size.py`:

    OIS_FUZZ_REQUESTS=50000 OIS_FUZZ_RESULT=fuzz.json pytest tests/fuzz

A long run was made with the seed 0: benchmarks/results/fuzz-services.json.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import grpc
import nuclio_sdk
import numpy as np
import pytest

import interactor
from backend import Backend, make_app
from ois_cli.demo.gateway.frames import write_frame
from ois_cli.demo.gateway.server import Gateway
from ois_client import Client
from ois_client.contract.masks import png_of_mask
from ois_client.sessions.replay import RecentSessions
from ois_client.wire import MODEL, ONESHOT_MODEL
from ois_export.repository import write_repository
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest
from support.asgi import serving
from support.fuzz.damage import damaged_bytes, damaged_json
from support.fuzz.files import damaged_file, good_files
from support.fuzz.messages import damaged_message
from support.fuzz.size import dice_for, is_long, paced, report, requests
from support.hosts.label_studio import LEGACY_TOKEN, Host
from support.server.malformed import GOOD, RawRequest
from support.server.malformed_models import GOOD_INPUTS
from support.server.nginx import needs_nginx, nginx_before
from support.server.players import pixels
from support.server.processes import needs_server
from support.tiny_engines import write_engines
from task_images import ImageFetcher

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILES = good_files()
#: A request must be answered within this time, on a busy machine too.
HANGS_S = 30.0
#: Good requests are made after so many damaged ones.
BATCH = 250
#: Memory of a process may grow by this much in the second half of a long run.
GROWTH_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_engines(tmp_path_factory.mktemp("engines"))
    write_repository(folder, Manifest.load(folder))
    return folder


def fuzz(
    name: str,
    short: int,
    ask: Callable[[random.Random], str],
    works: Callable[[], None],
    processes: Callable[[], list[int]] = lambda: [os.getpid()],
) -> None:
    """Make requests with `ask`, which returns the kind of answer and checks that it is typed.

    works: makes a good request. processes: whose memory must not grow.
    """
    dice, seen, count = dice_for(name), Counter[str](), requests(short)
    half: dict[int, int] = {}
    slowest_s = 0.0
    works()
    for number in paced(count):
        if number == count // 2:
            half = {pid: resident_bytes(pid) for pid in processes()}
        began = time.monotonic()
        seen[ask(dice)] += 1
        slowest_s = max(slowest_s, time.monotonic() - began)
        assert slowest_s < HANGS_S, f"{name}: request {number}"
        if number % BATCH == BATCH - 1:
            works()
    works()
    assert len(seen) > 1, seen
    grown = [resident_bytes(pid) - before for pid, before in half.items()]
    report(
        name,
        {
            "requests": count,
            "answers": dict(seen.most_common()),
            # Each of these ends the test.
            "crashes": 0,
            "hangs": 0,
            "untyped": 0,
            "slowest_s": round(slowest_s, 3),
            "grown_mib_in_second_half": round(max(grown, default=0) / 2**20, 1),
        },
    )
    if is_long():
        assert max(grown, default=0) < GROWTH_BYTES, grown


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def is_clean(text: str, given: object) -> None:
    """The answer tells nothing about the inside of the server."""
    for word in ("Traceback", "/site-packages/", 'File "', "/tmp"):
        assert word not in text, f"{text!r} to {given!r:.2000}"


# -- Triton behind the front, and nginx ----------------------------------------------------------

REQUESTS = [
    RawRequest("", GOOD, {"ois_want": "depth", "ois_session": "fuzz"}, ("INFO", "MASKS")),
    RawRequest("", GOOD, {"ois_answer": "coarse", "ois_region": "full"}, ("INFO", "MASKS")),
    RawRequest("", GOOD, {}, ("INFO",), output_parameters={"classification": 2}),
    RawRequest("", {}),
    RawRequest("", {"IMAGE": GOOD["IMAGE"]}, outputs=("INFO",)),
    RawRequest("", GOOD_INPUTS[ONESHOT_MODEL], model=ONESHOT_MODEL),
]


@pytest.fixture(scope="module")
def server(engines: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(engines, ServerOptions(cache_bytes=2**24)) as running:
        yield running


class Urls(Protocol):
    @property
    def grpc_url(self) -> str: ...
    @property
    def http_url(self) -> str: ...


@pytest.fixture(params=["front", pytest.param("nginx", marks=needs_nginx)])
def place(
    server: EmbeddedServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, Urls]]:
    """The name and the addresses of what the requests meet first."""
    if request.param == "front":
        yield request.param, server
        return
    with nginx_before([server], tmp_path) as running:
        yield request.param, running


@pytest.fixture
def still_works(
    server: EmbeddedServer, place: tuple[str, Urls], engines: Path
) -> Iterator[Callable[[], None]]:
    """A click is right, and the server is the one that was started."""
    pids = server.pid, server.front_pid
    with Client(place[1].grpc_url) as client, Client(f"local:{engines}") as twin:
        expected = twin.open(pixels(9100)).click(40, 40)

        def check() -> None:
            np.testing.assert_array_equal(client.open(pixels(9100)).click(40, 40), expected)
            assert (server.restarts, server.pid, server.front_pid) == (0, *pids)

        yield check


def processes_of(server: EmbeddedServer) -> Callable[[], list[int]]:
    return lambda: [server.pid or 0, server.front_pid or 0, *server.python_models()]


#: gRPC's codes that say what is wrong with a request. UNKNOWN: text that is no UTF-8.
REFUSALS = {"INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
REFUSALS |= {"PERMISSION_DENIED", "OUT_OF_RANGE", "FAILED_PRECONDITION"}


@needs_server
def test_grpc(
    server: EmbeddedServer, place: tuple[str, Urls], still_works: Callable[[], None]
) -> None:
    name, urls = place
    texts = [one.message().SerializeToString() for one in REQUESTS]
    with grpc.insecure_channel(urls.grpc_url.removeprefix("grpc://")) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def ask(dice: random.Random) -> str:
            text = damaged_message(dice, dice.choice(texts))
            error = infer.future(text, timeout=HANGS_S).exception()
            if error is None:
                return "OK"
            code, details = error.code().name, error.details() or ""
            assert code in REFUSALS, f"{code} {details} to {text!r:.2000}"
            is_clean(details, text)
            return str(code)

        fuzz(f"grpc, {name}", 200, ask, still_works, processes_of(server))


HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Type": ("application/json", "application/octet-stream", "text/plain", "", "a" * 3000),
    "Content-Encoding": ("gzip", "deflate", "identity", "br"),
    "Inference-Header-Content-Length": ("0", "1", "9999", "-1", "many", "99999999999999999999"),
    "Expect": ("100-continue", "x"),
    "ois-image-digest": ("", "a" * 5000, "\xff"),
    "authorization": ("x",),
    "Connection": ("close", "upgrade"),
    "Accept-Encoding": ("gzip",),
}
PATHS = (
    f"/v2/models/{MODEL}/infer",
    f"/v2/models/{ONESHOT_MODEL}/infer",
    f"/v2/models/{MODEL}/versions/1/infer",
    *("/v2", "/v2/health/live", f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/config"),
    *("/v2/models/ois_encoder/infer", "/v2/repository/index", "/", "/%00", "/v2//models/../x"),
)


@needs_server
def test_http(
    server: EmbeddedServer, place: tuple[str, Urls], still_works: Callable[[], None]
) -> None:
    name, urls = place

    def ask(dice: random.Random) -> str:
        path, body, headers = damaged_http(dice)
        method = "POST" if dice.random() < 0.9 else dice.choice(("GET", "PUT", "HEAD", "OPTIONS"))
        status, text = sent(urls.http_url, method, path, body, headers)
        given = (method, path, headers, body)
        assert status in (200, 400, 403, 404, 405, 411, 413, 415, 417), f"{status} {given!r:.2000}"
        if status != 200:
            is_clean(text, given)
        return str(status)

    fuzz(f"http, {name}", 200, ask, still_works, processes_of(server))


def damaged_http(dice: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers: usually one of them is damaged."""
    path, body, headers = dice.choice(REQUESTS).http()
    length = int(headers["Inference-Header-Content-Length"])
    text, rest = body[:length], body[length:]
    if dice.random() < 0.8:
        text = damaged_json(dice, json.loads(text))
        headers["Inference-Header-Content-Length"] = str(len(text))
    if dice.random() < 0.3:
        rest = damaged_bytes(dice, rest)
    if dice.random() < 0.2:
        name = dice.choice(sorted(HEADERS))
        headers[name] = dice.choice(HEADERS[name])
    if dice.random() < 0.1:
        del headers["Inference-Header-Content-Length"]
        rest = b""
    if dice.random() < 0.1:
        path = dice.choice(PATHS)
    return path, text + rest, headers


def sent(url: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=HANGS_S)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode("utf-8", "replace")
    except ConnectionError:  # refused after the head, before the body was read
        return 400, ""
    finally:
        connection.close()


# -- the demo -------------------------------------------------------------------------------------


def test_gateway(engines: Path) -> None:
    picture = FILES[0]
    mask = b"".join(FILES[:1])
    with Gateway(f"local:{engines}", where="here", port=0) as gateway:
        url = gateway.url

        def works() -> None:
            status, _ = sent(url, "POST", "/api/images", picture, {})
            assert status == 200

        def opened() -> dict[str, Any]:
            place = urlsplit(url)
            connection = http.client.HTTPConnection(place.hostname or "", place.port)
            connection.request("POST", "/api/images?picture=no", picture)
            data = connection.getresponse().read()
            connection.close()
            head: dict[str, Any] = json.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])
            return head

        image = opened()
        click = {
            **{name: image[name] for name in ("digest", "width", "height")},
            "model": "",
            "clicks": [[9, 8, True], [3, 4, False]],
            "want": ["mask", "depth"],
        }
        several = [[9, 8, True], [3, 4, False], [5, 5, True], [6, 6, True]]
        closer = {**click, "clicks": several, "window": [0, 0, 9, 9]}
        before = png_of_mask(np.ones((image["height"], image["width"]), np.uint8))
        objects = [{"name": "1", "label": "cat"}]
        size = {"name": "a.jpg", "width": image["width"], "height": image["height"]}
        stroke = {**size, "points": [[3, 4], [9, 9.5]], "radius": 2.5, "paint": True}
        result = {"kind": "cutout", "name": "a.jpg", "objects": objects}
        archive = {"classes": ["cat"], "images": [{**size, "objects": objects}]}

        def framed(dice: random.Random, head: dict[str, Any], parts: dict[str, bytes]) -> bytes:
            if dice.random() < 0.2:
                return damaged_bytes(dice, write_frame(head, parts))
            listed = {**head, "parts": [[name, len(part)] for name, part in parts.items()]}
            text = damaged_json(dice, listed)
            return b"".join([len(text).to_bytes(4, "big"), text, *parts.values()])

        def ask(dice: random.Random) -> str:
            kind = dice.choice(("images", "clicks", "edits", "masks", "results", "archives"))
            if kind == "images":
                body = damaged_file(dice, FILES)
            elif kind == "clicks":
                zooms = dice.random() < 0.5
                body = framed(dice, closer, {"mask": before}) if zooms else framed(dice, click, {})
            elif kind == "edits":
                body = framed(dice, stroke, {"mask": mask})
            elif kind == "masks":
                body = framed(dice, size, {"file": damaged_file(dice, FILES)})
            elif kind == "archives":
                body = framed(dice, archive, {"m0.0": mask})
            else:
                body = framed(dice, result, {"mask0": mask, "image": picture})
            status, text = sent(url, "POST", f"/api/{kind}", body, {})
            if status == 200:
                return f"{kind} 200"
            error = json.loads(text)["error"]
            assert status in (400, 404), f"{status} {error} to {body!r:.2000}"
            assert error["code"] != "INTERNAL"
            is_clean(error["message"], body)
            return f"{kind} {error['code']}"

        fuzz("gateway", 400, ask, works)


# -- the annotation tools -------------------------------------------------------------------------


def test_label_studio(engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    # pytest would keep every warning, with its error and all that the error refers to.
    caplog.set_level(logging.CRITICAL, "ois.label_studio")
    good = json.loads((GOLDEN / "label_studio_predict.json").read_text())["request"]
    good["tasks"][0]["data"]["photo"] = "/data/upload/1/0.jpg"
    setup = {"project": "1.17", "schema": good["label_config"], "hostname": "x"}
    host = Host()
    with Client(f"local:{engines}") as client:
        backend = Backend(client, ImageFetcher(host.url(host.studio), LEGACY_TOKEN))
        with serving(make_app(backend), "critical") as url:

            def works() -> None:
                assert sent(url, "GET", "/health", b"", {})[0] == 200
                assert sent(url, "POST", "/setup", json.dumps(setup).encode(), {})[0] == 200

            def ask(dice: random.Random) -> str:
                path, document = dice.choice(
                    (("/predict", good), ("/predict", good), ("/setup", setup))
                )
                body = damaged_json(dice, document)
                status, text = sent(url, "POST", path, body, {})
                assert status in (200, 400, 503), f"{status} {text!r} to {body!r:.2000}"
                answer = json.loads(text)
                if status != 200:
                    assert answer["code"], text
                    is_clean(answer["detail"].replace(str(good), ""), "")
                return f"{path} {answer.get('code', status)}"

            try:
                fuzz("label studio", 300, ask, works)
            finally:
                host.close()


class Silent:
    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...


def test_cvat(engines: Path) -> None:
    logger = nuclio_sdk.Logger(10)
    logger.set_handler("test", Silent(), nuclio_sdk.logger.HumanReadableFormatter())
    context = nuclio_sdk.Context(logger)
    good = {
        "image": base64.b64encode(FILES[0]).decode(),
        "pos_points": [[9.5, 8.5], [4, 4]],
        "neg_points": [[20, 3]],
        "obj_bbox": None,
    }
    with Client(f"local:{engines}") as client:
        context.user_data.recent = RecentSessions(client)

        def answer(body: bytes) -> tuple[int, dict[str, Any]]:
            response = interactor.handler(context, nuclio_sdk.Event(body=body))
            return response.status_code, json.loads(response.body)

        def works() -> None:
            status, reply = answer(json.dumps(good).encode())
            assert status == 200
            assert len(reply["mask"]) == 21

        def ask(dice: random.Random) -> str:
            document = dict(good)
            if dice.random() < 0.3:
                document["image"] = base64.b64encode(damaged_file(dice, FILES)).decode()
            body = (
                damaged_json(dice, document)
                if dice.random() < 0.8
                else json.dumps(document).encode()
            )
            status, reply = answer(body)
            assert status in (200, 400), f"{status} {reply} to {body!r:.2000}"
            if status == 400:
                is_clean(reply["error"], body)
            return str(status)

        fuzz("cvat", 300, ask, works)
