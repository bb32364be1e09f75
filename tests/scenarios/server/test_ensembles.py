"""The stateless ensembles: one request with an image returns its features or masks."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_client import AsyncClient, Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidClick, InvalidInput
from ois_client.contract.images import Picture
from ois_client.contract.masks import MaskFormat
from ois_client.contract.transport import ClickReply
from ois_client.wire import Message, Tensors, oneshot_message
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.backends import load_engines
from ois_runtime.engines.pixels import preprocess
from support.server.calls import (
    click_request,
    eventually,
    infer,
    metrics,
    picture,
    statistics,
    triton_statistics,
)

CLICKS = [[Click(40, 40), Click(2, 2, positive=False)], [Click(90, 30)]]
MORE = [[*CLICKS[0], Click(60, 50)], [*CLICKS[1], Click(80, 20)]]

Segment = Callable[..., ClickReply]


def message(image: Picture) -> Message:
    return oneshot_message(click_request(image, *CLICKS), image)


def sources() -> list[np.ndarray | bytes]:
    """The same image as pixels and as a file."""
    pixels = picture(60).pixels()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return [pixels, file.getvalue()]


def segment_of(server: EmbeddedServer, protocol: str, form: MaskFormat) -> Segment:
    """`Client.segment` over one protocol, blocking or on an event loop."""
    kind, _, name = protocol.rpartition(" ")
    url = getattr(server, f"{name}_url")

    def blocking(*words: object, **options: object) -> ClickReply:
        with Client(url, mask_format=form) as client:
            return client.segment(*words, **options)  # type: ignore[arg-type]

    def on_a_loop(*words: object, **options: object) -> ClickReply:
        async def call() -> ClickReply:
            async with AsyncClient(url, mask_format=form) as client:
                return await client.segment(*words, **options)  # type: ignore[arg-type]

        return asyncio.run(call())

    return on_a_loop if kind else blocking


@pytest.mark.parametrize("protocol", ["grpc", "http", "async grpc", "async http"])
@pytest.mark.parametrize("form", [MaskFormat.PACKED, MaskFormat.PNG])
def test_two_rounds_equal_a_session_in_process(
    server: EmbeddedServer, engines: Path, protocol: str, form: MaskFormat
) -> None:
    segment = segment_of(server, protocol, form)
    with Client(f"local:{engines}") as twin:
        for image in sources():
            first, second = rounds(segment, image)
            expected_first, expected_second = rounds(twin.segment, image)
            for reply, expected in ((first, expected_first), (second, expected_second)):
                np.testing.assert_array_equal(reply.masks, expected.masks)
                np.testing.assert_array_equal(reply.coverage, expected.coverage)
            # The coverage of the first round matters, so the second round has used it.
            assert (second.masks != twin.segment(image, MORE).masks).any()

            session = twin.open(image)
            session.new_object()
            # One click a round is what a session does.
            session.click_many({0: CLICKS[0][0], 1: CLICKS[1][0]})
            session.click_many({0: CLICKS[0][1], 1: MORE[1][1]})
            began = segment(image, [[CLICKS[0][0]], [CLICKS[1][0]]])
            refined = segment(image, [CLICKS[0], MORE[1]], coverage=began.coverage)
            np.testing.assert_array_equal(refined.masks, np.stack([*session.masks.values()]))


def rounds(segment: Segment, image: np.ndarray | bytes) -> tuple[ClickReply, ClickReply]:
    first = segment(image, CLICKS)
    return first, segment(image, MORE, coverage=first.coverage)


def test_one_request_runs_each_model_once_and_stores_nothing(server: EmbeddedServer) -> None:
    name = 'ois_requests_total{kind="oneshot",outcome="ok"}'
    with Client(server.grpc_url) as client:
        before, counted = statistics(server), metrics(server)
        client.segment(picture(62).pixels(), CLICKS)
    models = ("ois_oneshot", "ois_preprocess", "ois_encoder", "ois_postprocess")
    # Triton counts a request after it has sent the answer.
    after = eventually(
        lambda: triton_statistics(server), lambda now: all(now[m] != before[m] for m in models)
    )
    for model in models:
        assert after[model] - before[model] == 1, model
    found = eventually(lambda: metrics(server), lambda now: now.get(name) != counted.get(name))
    assert found[name] - counted.get(name, 0) == 1
    assert found["ois_decodes_total"] - counted["ois_decodes_total"] == 1
    for stored in ("ois_store_misses_total", "ois_store_images"):
        assert found[stored] == counted[stored]


def test_the_decoders_weights_are_loaded_a_second_time_only_for_an_ensemble(engines: Path) -> None:
    """`ois_segment` has them. Before that, `ois_decoder` has not even loaded ONNX Runtime."""
    with (
        EmbeddedServer(engines, ServerOptions(cache_bytes=2**24)) as server,
        Client(server.grpc_url) as client,
    ):
        models = server.python_models().items()
        (pid,) = [pid for pid, line in models if "/ois_decoder/" in line]
        maps = Path(f"/proc/{pid}/maps")
        image = picture(65).pixels()
        mask = client.open(image).click(40, 40)
        assert "onnxruntime_pybind11_state" not in maps.read_text()
        np.testing.assert_array_equal(client.segment(image, [Click(40, 40)]).masks[0], mask)
        assert "onnxruntime_pybind11_state" in maps.read_text()


def test_encode_gives_the_encoders_outputs(server: EmbeddedServer, engines: Path) -> None:
    image = picture(61)
    tensors = {name: message(image).tensors[name] for name in ("IMAGE", "IMAGE_SHAPE")}
    names = ("depth", "depth_min", "depth_max", "position")
    reply = infer(server, Message(tensors, {}, (*names, "SIZE")), model="ois_encode")
    pair = load_engines(engines)
    pixels, geometry = preprocess(image, pair.manifest.fit)
    expected = pair.encode(pixels, geometry).arrays
    for name in names:
        np.testing.assert_array_equal(reply[name], expected[name])
    assert reply["SIZE"].tolist() == [112, 84]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"POINTS": np.full((2, 2, 2), -1, np.float32)}, InvalidClick),
        ({"POINTS": np.zeros((0, 0, 2), np.float32)}, InvalidInput),
        ({"IMAGE": np.zeros(0, np.uint8)}, InvalidInput),
        ({"HAS_PREVIOUS": np.ones(2, np.bool_)}, InvalidInput),
        (
            {"HAS_PREVIOUS": np.ones(2, np.bool_), "COVERAGE": np.zeros((2, 9, 9), np.uint8)},
            InvalidInput,
        ),
    ],
    ids=["click outside", "no clicks", "no image", "no coverage", "another grid"],
)
def test_wrong_requests_get_typed_errors_and_are_counted(
    server: EmbeddedServer, changes: Tensors, kind: type[InvalidInput]
) -> None:
    name = f'ois_requests_total{{kind="oneshot",outcome="{kind.code}"}}'
    good = message(picture(60))
    before = metrics(server).get(name, 0)
    with pytest.raises(kind):
        infer(server, Message({**good.tensors, **changes}, {}, ("MASKS",)), model="ois_oneshot")
    assert eventually(lambda: metrics(server).get(name, 0), lambda now: now > before) == before + 1


def test_maps_are_refused_and_not_silently_missing(server: EmbeddedServer) -> None:
    good = message(picture(60))
    asked = Message(good.tensors, {"ois_want": "depth"}, ("MASKS",))
    with pytest.raises(InvalidInput, match="got ois_want depth; this model returns masks"):
        infer(server, asked, model="ois_oneshot")
