"""`ois_segment` in a real `tritonserver` gives the same answers as the engines in process."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ois_client.contract.clicks import Click
from ois_client.contract.errors import UnknownImage
from ois_client.contract.images import load_image
from ois_client.contract.masks import MaskFormat
from ois_client.wire import (
    click_message,
    encode_message,
    info_message,
    read_click_reply,
    read_encode_reply,
    read_info,
)
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import LocalTransport
from support.server.calls import click_request, eventually, infer, metrics, picture, statistics

PROTOCOLS = ("grpc", "http")
TWO = ([Click(40.5, 40.5), Click(5, 5, positive=False)], [Click(80.5, 20.5)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_empty_request_returns_the_server_s_description(
    server: EmbeddedServer, local: LocalTransport, protocol: str
) -> None:
    info = read_info(infer(server, info_message(), protocol=protocol))
    expected = local.info()
    assert replace(info.model, engine="") == replace(expected, engine="")
    assert info.model.engine == "tritonserver cpu fp32, clicks in the session model's process"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clicks_equal_the_engines_in_process_bit_for_bit(
    server: EmbeddedServer, local: LocalTransport, protocol: str
) -> None:
    image = picture(1)
    local.encode(image)
    encoded = read_encode_reply(
        infer(server, encode_message(image), protocol=protocol), image.digest
    )
    assert encoded.model_sha256 == local.info().model_sha256
    request = click_request(image, *TWO, want_depth=True, want_logits=True, want_order=True)
    for _ in range(2):
        reply = read_click_reply(infer(server, click_message(request), protocol=protocol), request)
        expected = local.click(request)
        for name in ("masks", "coverage", "depth", "logits", "order"):
            np.testing.assert_array_equal(getattr(reply, name), getattr(expected, name))
        assert {"queue", "decode", "postprocess", "total"} <= reply.timings_ms.keys()
        # the next click refines these masks
        request = replace(request, coverage=reply.coverage, has_previous=np.ones(2, bool))
    assert reply.masks.any()


def test_only_requested_outputs_are_sent(server: EmbeddedServer) -> None:
    image = picture(1)
    infer(server, encode_message(image))
    tensors = infer(server, click_message(click_request(image, *TWO)))
    assert tensors.keys() == {"INFO", "MASKS", "MASK_SIZES", "NEW_COVERAGE"}


@pytest.mark.parametrize("form", list(MaskFormat))
def test_masks_come_in_every_format(
    server: EmbeddedServer, local: LocalTransport, form: MaskFormat
) -> None:
    image = picture(1)
    infer(server, encode_message(image))
    local.encode(image)
    request = click_request(image, *TWO)
    tensors = infer(server, click_message(request, mask_format=form))
    reply = read_click_reply(tensors, request, mask_format=form)
    np.testing.assert_array_equal(reply.masks, local.click(request).masks)


def test_many_objects_take_several_runs_of_the_decoder(
    server: EmbeddedServer, local: LocalTransport
) -> None:
    image = picture(2)
    local.encode(image)
    request = click_request(image, *([Click(3.5 * n, 40.5)] for n in range(32)), want_order=True)
    before = statistics(server)["ois_decoder"]
    reply = read_click_reply(infer(server, click_message(request, picture=image)), request)
    expected = local.click(request)
    np.testing.assert_array_equal(reply.masks, expected.masks)
    np.testing.assert_array_equal(reply.order, expected.order)
    assert statistics(server)["ois_decoder"] - before == 4  # 8 objects per run


@pytest.mark.parametrize("kind", ["jpeg", "png", "rgb", "grey"])
def test_pictures_of_every_kind(server: EmbeddedServer, local: LocalTransport, kind: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    if kind in ("jpeg", "png"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=kind)
        image = load_image(file.getvalue())
    else:
        image = load_image(pixels if kind == "rgb" else pixels[:, :, 0])
    request = click_request(image, *TWO)
    local.encode(image)
    reply = read_click_reply(infer(server, click_message(request, picture=image)), request)
    np.testing.assert_array_equal(reply.masks, local.click(request).masks)


def test_an_image_that_was_never_sent_is_unknown(server: EmbeddedServer) -> None:
    image = picture(4)
    request = click_request(image, *TWO)
    with pytest.raises(UnknownImage, match="repeat the click"):
        infer(server, click_message(request))
    infer(server, encode_message(image))
    assert read_click_reply(infer(server, click_message(request)), request).masks.any()


def test_an_image_is_encoded_once_for_concurrent_requests(server: EmbeddedServer) -> None:
    images = [picture(seed) for seed in range(100, 104)]
    before = statistics(server)

    def work(n: int) -> bool:
        image = images[n % len(images)]
        encoded = read_encode_reply(infer(server, encode_message(image)), image.digest)
        infer(server, click_message(click_request(image, [Click(n, n)])))
        return encoded.cached

    with ThreadPoolExecutor(8) as pool:
        cached = list(pool.map(work, range(32)))
    after = statistics(server)
    assert after["ois_encoder"] - before["ois_encoder"] == len(images)
    assert after["ois_decoder"] - before["ois_decoder"] == 32
    # 64 requests, and the one that `statistics` makes. Triton counts a request after its answer, so
    # the last one of an earlier test may come late.
    assert after["ois_segment"] - before["ois_segment"] in (64 + 1, 64 + 2)
    assert cached.count(True) > 0


def test_sessions_do_not_see_each_others_masks(
    server: EmbeddedServer, local: LocalTransport
) -> None:
    images = [picture(seed) for seed in range(200, 204)]
    for image in images:
        infer(server, encode_message(image))
        local.encode(image)

    def work(n: int) -> bool:
        request = click_request(images[n % 4], [Click(n, 40)], want_depth=True, want_logits=True)
        reply = read_click_reply(infer(server, click_message(request)), request)
        expected = local.click(request)
        return all(
            np.array_equal(getattr(reply, name), getattr(expected, name))
            for name in ("masks", "depth", "logits")
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


def test_metrics_count_what_happened(server: EmbeddedServer) -> None:
    assert server.metrics_url is not None
    statistics(server)  # the requests of earlier tests are then published
    before = metrics(server)
    image = picture(300)
    infer(server, encode_message(image))
    for _ in range(3):
        infer(server, click_message(click_request(image, [Click(1, 1)])))
    with pytest.raises(UnknownImage):
        infer(server, click_message(click_request(picture(301), [Click(1, 1)])))
    wanted = {
        "ois_store_hits_total": 3,
        "ois_store_misses_total": 2,
        "ois_encode_seconds_count": 1,
        "ois_click_seconds_count": 3,
        'ois_requests_total{kind="click",outcome="ok"}': 3,
        'ois_requests_total{kind="click",outcome="UNKNOWN_IMAGE"}': 1,
        'ois_requests_total{kind="encode",outcome="ok"}': 1,
        "ois_decodes_total": 3,
    }
    after = eventually(
        lambda: metrics(server),
        lambda now: all(now.get(k, 0) - before.get(k, 0) == v for k, v in wanted.items()),
    )
    got = {name: after.get(name, 0) - before.get(name, 0) for name in wanted}
    assert got == wanted
    assert after["ois_store_bytes"] > 0
    assert after["ois_store_bytes"] <= after["ois_store_budget_bytes"]
