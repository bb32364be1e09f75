"""The gateway of `ois demo` answers its page as the engines would, and refuses others."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_cli.demo.gateway import coco as coco_module
from ois_cli.demo.gateway import results
from ois_cli.demo.gateway.frames import write_frame
from ois_cli.demo.gateway.pictures import shrink_mask
from ois_cli.demo.gateway.server import Gateway
from ois_client.contract.errors import EngineError, InvalidInput, ServerUnavailable
from ois_client.contract.masks import png_of_mask
from ois_client.sessions.client import Client
from support.demo.calls import ask, click, encoded, noise, open_image, pixels_of
from support.tiny_engines import write_engines, write_region_engines


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def url(engines: Path) -> Iterator[str]:
    with Gateway(f"local:{engines}", where="here", port=0) as gateway:
        yield gateway.url


@pytest.fixture(scope="module")
def client(engines: Path) -> Iterator[Client]:
    with Client(f"local:{engines}") as opened:
        yield opened


# -- the page ----------------------------------------------------------------------------------


def test_the_page_has_a_strict_content_policy(url: str) -> None:
    page = ask(url, "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert ask(url, "/app.js").headers["content-type"].startswith("text/javascript")
    assert ask(url, "/canvas/view.js").headers["content-type"].startswith("text/javascript")
    assert ask(url, "/styles/layout.css").headers["content-type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    [
        "/../command.py",
        "/..%2fcommand.py",
        "/%2e%2e/command.py",
        "/canvas/../../command.py",
        "/canvas/..%2f..%2fcommand.py",
        "/canvas/../app.js",
        "/canvas//view.js",
        "/canvas",
        "/canvas/",
        "/package.json",
        "//etc/passwd",
        "/samples/../LICENSES.md",
        "/samples/LICENSES.md",
        "/samples/..%2f..%2fexport.py",
    ],
)
def test_only_listed_files_are_served(url: str, path: str) -> None:
    reply = ask(url, path)
    assert (reply.status, reply.error[0]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_of_other_pages_are_refused(url: str, headers: dict[str, str]) -> None:
    for path, body in (("/api/info", None), ("/api/images", b"x"), ("/", None)):
        reply = ask(url, path, body, headers)
        assert (reply.status, reply.error[0]) == (403, "ACCESS_DENIED")
        assert "content-security-policy" in reply.headers


def test_the_own_page_is_answered(url: str) -> None:
    headers = {"Origin": url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    info = json.loads(ask(url, "/api/info", headers=headers).body)
    assert (info["network"], info["trained"], info["where"]) == ("tiny-test", False, "here")
    assert "random weights" in info["note"]
    sample = ask(url, f"/samples/{info['samples'][0]['file']}", headers=headers)
    assert Image.open(io.BytesIO(sample.body)).format == "JPEG"


# -- images ------------------------------------------------------------------------------------


def test_the_page_shows_the_pixels_that_the_network_gets(url: str) -> None:
    """The image is rotated by EXIF, where browsers and Pillow may differ."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise(60, 40)
    head, parts = open_image(url, encoded(pixels, exif=exif))
    assert (head["width"], head["height"]) == (40, 60)
    np.testing.assert_array_equal(pixels_of(parts["picture"]), np.rot90(pixels, -1))
    assert head["notes"] == ["rotated according to its EXIF orientation"]


def test_a_large_photograph_is_shown_smaller_and_clicked_at_full_size(url: str) -> None:
    pixels = np.repeat(np.repeat(noise(60, 40), 100, axis=0), 100, axis=1)  # 6000 x 4000
    head, parts = open_image(url, encoded(pixels, "JPEG"))
    assert (head["width"], head["height"]) == (6000, 4000)
    assert Image.open(io.BytesIO(parts["picture"])).size == (4096, 2731)
    answer, found = click(url, head, [[5000.5, 100, True]]).frame
    mask = pixels_of(found["mask"])
    assert mask.shape == (4000, 6000)
    assert mask[100, 5000]
    assert pixels_of(found["shown"]).shape == (1365, 2048)
    assert answer["area_px"] == mask.sum()


def test_an_image_can_be_sent_again_without_a_picture(url: str) -> None:
    data = encoded(noise(30, 30, seed=5))
    first, _ = open_image(url, data)
    again, parts = open_image(url, data, "?picture=no")
    assert parts == {}
    assert (again["cached"], again["digest"]) == (True, first["digest"])


def animation() -> bytes:
    frames = [Image.fromarray(noise(20, 20, seed)) for seed in (1, 2, 3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (encoded(noise(1, 1)), None),
        (encoded(np.full((9, 9), 40000, np.uint16)), "16-bit samples were reduced to 8 bits"),
        (animation(), "only the first frame of this file is used"),
        (encoded(np.zeros((9, 9, 4), np.uint8)), "transparent parts are shown white"),
        (encoded(noise(20, 10), "TIFF"), None),
    ],
    ids=["1x1", "16-bit", "animated", "transparent", "tiff"],
)
def test_unusual_images_work_and_have_a_note(url: str, data: bytes, note: str | None) -> None:
    head, parts = open_image(url, data)
    assert head["notes"] == ([note] if note else [])
    assert pixels_of(parts["picture"]).shape[:2] == (head["height"], head["width"])
    answer, _ = click(url, head, [[0, 0, True]]).frame
    assert answer["area_px"] > 0


def huge_png(width: int, height: int) -> bytes:
    """A PNG header of this size without pixel data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    small = encoded(noise(1, 1))
    return small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes"),
        (b"just some text", "not an image"),
        (huge_png(20_000, 10_000), "20000 x 10000 = 200 megapixels; the demo accepts up to 67"),
        (encoded(noise(200, 200))[:5000], "truncated or damaged"),
    ],
    ids=["empty", "text", "200-megapixels", "truncated"],
)
def test_files_that_are_not_images_are_reported(url: str, data: bytes, text: str) -> None:
    reply = ask(url, "/api/images", data)
    assert (reply.status, reply.error[0]) == (400, "INVALID_IMAGE")
    assert text in reply.error[1]


def test_a_body_over_the_limit_is_refused_before_it_is_read(url: str) -> None:
    for path, code in (("/api/images", "INVALID_IMAGE"), ("/api/clicks", "INVALID_INPUT")):
        reply = ask(url, path, b"", {"Content-Length": str(2**40)})
        assert (reply.status, reply.error[0]) == (400, code)


# -- clicks ------------------------------------------------------------------------------------


def test_clicks_equal_those_of_a_session(url: str, client: Client) -> None:
    data = encoded(noise(112, 84, seed=7))
    head, _ = open_image(url, data)
    session = client.open(data)
    clicks: list[list[float | bool]] = []
    coverage = None
    for x, y, positive in ((40, 40, True), (52.5, 30, True), (90, 70, False)):
        clicks.append([x, y, positive])
        answer, parts = click(url, head, clicks, coverage).frame
        mask = session.click(x, y, positive)
        np.testing.assert_array_equal(pixels_of(parts["mask"]), mask)
        assert parts["coverage"] == session.coverage().tobytes()  # type: ignore[union-attr]
        assert answer["area_px"] == mask.sum()
        assert answer["gateway_ms"] > answer["timings_ms"]["decode"] > 0
        coverage = parts["coverage"]
    assert answer["maps"] == {"positive": True, "negative": 1}


def test_a_coarse_click_has_a_picture_to_show_and_nothing_to_keep(tmp_path: Path) -> None:
    with Gateway(f"local:{write_region_engines(tmp_path)}", port=0) as gateway:
        assert json.loads(ask(gateway.url, "/api/info").body)["coarse_answers"]
        head, _ = open_image(gateway.url, encoded(noise(112, 84, seed=7)))
        answer, parts = click(gateway.url, head, [[40, 40, True]], want=[], answer="coarse").frame
        assert [*parts] == ["shown"]
        assert {*answer} == {"timings_ms", "model_sha256", "gateway_ms"}
        assert pixels_of(parts["shown"])[40, 40]
        _, full = click(gateway.url, head, [[40, 40, True]]).frame
        assert pixels_of(full["mask"])[40, 40]


def test_engines_without_coarse_answers_say_so(url: str) -> None:
    assert not json.loads(ask(url, "/api/info").body)["coarse_answers"]
    head, _ = open_image(url, encoded(noise(112, 84, seed=7)))
    for answer in ("coarse", "rough", 1):
        reply = click(url, head, [[40, 40, True]], want=[], answer=answer)
        assert (reply.status, reply.error[0]) == (400, "INVALID_INPUT")


#: The negative ones make the disk of these engines small enough for a window.
CLOSER = [[600, 450, True], *([600, 450 + n, False] for n in range(5))]


def test_zoomed_clicks_equal_those_of_a_session_that_zooms(url: str, client: Client) -> None:
    data = encoded(noise(1200, 900, seed=9), "JPEG")
    head, _ = open_image(url, data)
    session = client.open(data, zoom=True)
    coverage = mask = window = None
    for n, (x, y, positive) in enumerate(CLOSER, 1):
        answer, parts = click(url, head, CLOSER[:n], coverage, mask, window=window).frame
        expected = session.click(x, y, bool(positive))
        np.testing.assert_array_equal(pixels_of(parts["mask"]), expected)
        assert parts["coverage"] == session.coverage().tobytes()  # type: ignore[union-attr]
        coverage, mask, window = parts["coverage"], parts["mask"], answer["window"]
        seen = session.window()
        assert window == (seen and [seen.left, seen.top, seen.right, seen.bottom])
    assert window is not None


def test_maps_come_with_the_whole_image_only(url: str) -> None:
    head, _ = open_image(url, encoded(noise(1200, 900, seed=10), "JPEG"))
    small = np.zeros((900, 1200), np.uint8)
    small[440:460, 590:610] = 1
    given = {"mask": png_of_mask(small), "coverage": bytes(4 * 3), "want": ["mask", "order"]}
    answer, parts = click(url, head, CLOSER[:4], **given).frame  # type: ignore[arg-type]
    assert answer["window"] is not None
    assert {*parts} == {"shown", "mask", "coverage"}
    del given["mask"]
    answer, parts = click(url, head, CLOSER[:4], **given).frame  # type: ignore[arg-type]
    assert answer["window"] is None
    assert "order0" in parts


def test_an_image_that_the_gateway_forgot_is_unknown_and_can_be_sent_again(url: str) -> None:
    data = encoded(noise(1200, 900, seed=11), "JPEG")
    head, _ = open_image(url, data)
    small = np.zeros((900, 1200), np.uint8)
    small[440:460, 590:610] = 1
    given = {"mask": png_of_mask(small), "coverage": bytes(4 * 3)}
    for seed in range(4):
        open_image(url, encoded(noise(30, 30, seed=20 + seed)))
    assert click(url, head, CLOSER[:4], **given).error[0] == "UNKNOWN_IMAGE"
    open_image(url, data, "?picture=no")
    assert click(url, head, CLOSER[:4], **given).frame[0]["window"] is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": [0, 0, 10]},
        {"window": [-1, 0, 10, 10]},
        {"window": [0, 0, 1201, 10]},
        {"window": [5, 5, 5, 9]},
        {"window": [0, 0, 1.5, 9]},
        {"window": "all"},
        {"mask": b"no PNG"},
        {"mask": png_of_mask(np.ones((9, 12), np.uint8))},
    ],
)
def test_a_wrong_window_or_mask_is_a_typed_error(url: str, wrong: dict[str, object]) -> None:
    head, _ = open_image(url, encoded(noise(1200, 900, seed=12), "JPEG"))
    given = {"mask": png_of_mask(np.ones((900, 1200), np.uint8)), "coverage": bytes(4 * 3), **wrong}
    reply = click(url, head, CLOSER[:4], **given)  # type: ignore[arg-type]
    assert (reply.status, reply.error[0]) == (400, "INVALID_INPUT")


def test_depth_and_order_maps_are_sent_as_pictures(url: str, client: Client) -> None:
    data = encoded(noise(112, 84, seed=8))
    head, _ = open_image(url, data)
    clicks = [[10, 20, True], [60, 50, False], [5, 5, False]]
    _, parts = click(url, head, clicks, want=["depth", "order"]).frame
    assert set(parts) == {"shown", "coverage", "depth", "order0", "order1", "order2"}
    session = client.open(data)
    for x, y, positive in clicks:
        session.click(x, y, bool(positive), want_depth=True, want_order=True)
    reply = session.last_reply
    assert reply is not None
    assert reply.depth is not None
    assert reply.order is not None
    for name, values in (
        ("depth", reply.depth),
        *((f"order{k}", reply.order[k]) for k in range(3)),
    ):
        np.testing.assert_array_equal(pixels_of(parts[name]), np.rint(values * 255))


def test_an_image_that_the_engines_dropped_is_unknown(url: str) -> None:
    reply = click(url, {"digest": "0" * 64, "width": 9, "height": 9}, [[1, 1, True]])
    assert (reply.status, reply.error[0]) == (404, "UNKNOWN_IMAGE")


def test_coverage_of_another_model_is_refused(url: str) -> None:
    head, _ = open_image(url, encoded(noise(50, 50)))
    reply = click(url, head, [[1, 1, True]], b"\x01" * 7)
    assert reply.error[0] == "INVALID_INPUT"
    assert "expected (rows, columns) = (4, 4)" in reply.error[1]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"clicks": []}, "INVALID_INPUT"),
        ({"clicks": "all"}, "INVALID_CLICK"),
        ({"clicks": [[1, 2]]}, "INVALID_CLICK"),
        ({"clicks": [[1, float("1e400"), True]]}, None),
        ({"clicks": [[10**400, 2, True]]}, "INVALID_CLICK"),
        ({"clicks": [[True, 2, True]]}, "INVALID_CLICK"),
        ({"clicks": [[1, 2, 1]]}, "INVALID_CLICK"),
        ({"clicks": [[50, 2, True]]}, "INVALID_CLICK"),
        ({"clicks": [[1, 2, True]] * 25}, "TOO_MANY_CLICKS"),
        ({"digest": "../etc"}, "INVALID_INPUT"),
        ({"digest": 7}, "INVALID_INPUT"),
        ({"width": 0}, "INVALID_INPUT"),
        ({"width": True}, "INVALID_INPUT"),
        ({"width": 10**9, "height": 10**9}, "INVALID_INPUT"),
        ({"want": ["logits"]}, "INVALID_INPUT"),
        ({"want": [[]]}, "INVALID_INPUT"),
    ],
)
def test_a_wrong_request_is_a_typed_error(
    url: str, changes: dict[str, object], code: str | None
) -> None:
    request = {"digest": "0" * 64, "width": 50, "height": 50, "clicks": [[1, 2, True]]}
    request |= {"want": [], **changes}
    if code is None:  # JSON has no infinity, so it cannot be sent
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_frame(request, {})
        return
    reply = ask(url, "/api/clicks", write_frame(request, {}))
    assert (reply.status, reply.error[0]) == (400, code)


def test_a_shrunk_mask_keeps_its_position() -> None:
    mask = np.zeros((300, 500), np.uint8)
    mask[100:200, 250:] = 1
    small = shrink_mask(mask, 50)
    assert small.shape == (30, 50)
    expected = np.zeros((30, 50), np.uint8)
    expected[10:20, 25:] = 1
    np.testing.assert_array_equal(small, expected)
    assert shrink_mask(mask, 500) is mask
    assert shrink_mask(np.ones((1, 5000), np.uint8), 50).shape == (1, 50)


# -- results -----------------------------------------------------------------------------------


def result(url: str, kind: object, masks: list[np.ndarray], **more: object) -> bytes:
    parts = {f"mask{k}": png_of_mask(mask) for k, mask in enumerate(masks)}
    image = more.pop("image", None)
    if isinstance(image, bytes):
        parts["image"] = image
    names = [{"name": f"object {k + 1}"} for k in range(len(masks))]
    head = {"kind": kind, "name": "photo.jpg", "objects": names, **more}
    return ask(url, "/api/results", write_frame(head, parts)).body


def two_masks() -> list[np.ndarray]:
    masks = np.zeros((2, 20, 30), np.uint8)
    masks[0, 2:10, 3:12] = 1
    masks[1, 5:15, 20:28] = 1
    return list(masks)


def test_masks_are_saved_as_by_ois_segment(url: str) -> None:
    one, two = two_masks()
    np.testing.assert_array_equal(pixels_of(result(url, "mask", [one])), one * 255)
    np.testing.assert_array_equal(pixels_of(result(url, "mask", [one, two])), one + 2 * two)


def test_coco_is_what_pycocotools_reads(url: str) -> None:
    from pycocotools import mask as coco

    document = json.loads(result(url, "coco", two_masks()))
    assert document["images"] == [{"id": 1, "file_name": "photo.jpg", "width": 30, "height": 20}]
    for annotation, mask in zip(document["annotations"], two_masks(), strict=True):
        np.testing.assert_array_equal(coco.decode(annotation["segmentation"]), mask)
        assert annotation["bbox"] == coco.toBbox(annotation["segmentation"]).tolist()
        assert annotation["area"] == mask.sum()


def test_a_cut_out_has_only_the_objects_pixels(url: str) -> None:
    pixels = noise(30, 20)
    one, _ = two_masks()
    cut = pixels_of(result(url, "cutout", [one], image=encoded(pixels)))
    assert cut.shape == (8, 9, 4)
    assert (cut[..., 3] == 255).all()
    np.testing.assert_array_equal(cut[..., :3], pixels[2:10, 3:12])


@pytest.mark.parametrize(
    ("kind", "masks", "more", "text"),
    [
        ("pdf", two_masks(), {}, "'pdf'"),
        (["mask"], two_masks(), {}, "expected one of"),
        ("mask", [], {}, "0 objects"),
        (
            "mask",
            two_masks(),
            {"objects": [{"name": name} for name in "abc"]},
            "no mask of object 3",
        ),
        ("mask", [two_masks()[0], np.ones((4, 4), np.uint8)], {}, "expected 30x20"),
        ("cutout", two_masks(), {}, "no image"),
        ("cutout", [np.zeros((20, 30), np.uint8)], {"image": encoded(noise(30, 20))}, "empty"),
        ("cutout", two_masks(), {"image": encoded(noise(31, 20))}, "(31, 20)"),
    ],
)
def test_an_impossible_result_is_reported(
    url: str, kind: object, masks: list[np.ndarray], more: dict[str, object], text: str
) -> None:
    error = json.loads(result(url, kind, masks, **more))["error"]
    assert error["code"].startswith("INVALID")
    assert text in error["message"]


def large_mask_png(width: int, height: int) -> bytes:
    """A small file: a PNG header of this size without pixel data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    small = png_of_mask(np.ones((1, 1), np.uint8))
    return small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]


def test_a_mask_larger_than_the_images_limit_is_refused(url: str) -> None:
    parts = {"mask0": large_mask_png(2**14, 2**13)}
    frame = write_frame({"kind": "coco", "name": "x", "objects": [{"name": "a"}]}, parts)
    reply = ask(url, "/api/results", frame)
    assert (reply.status, reply.error[0]) == (400, "INVALID_INPUT")
    assert "16384 x 8192 pixels; expected at most 67108864" in reply.error[1]


def test_run_lengths_of_masks_are_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_module, "_LONGEST", 1000)
    stripes = np.zeros((200, 200), np.uint8)
    stripes[::2] = 1
    error = json.loads(result(url, "coco", [stripes]))["error"]
    assert error["code"] == "INVALID_INPUT"
    assert "run lengths exceed" in error["message"]


@pytest.mark.parametrize("kind", ["mask", "coco", "cutout"])
def test_masks_are_decoded_one_at_a_time(kind: str) -> None:
    size = 1000
    mask = np.zeros((size, size), np.uint8)
    mask[100:200, 300:500] = 1
    parts = {f"mask{k}": png_of_mask(mask) for k in range(60)}
    parts["image"] = encoded(np.zeros((size, size, 3), np.uint8))
    head = {"kind": kind, "name": "x", "objects": [{"name": str(k)} for k in range(60)]}
    frame = write_frame(head, parts)
    results.result_file(frame)  # imports are not counted below
    tracemalloc.start()
    try:
        results.result_file(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 15 * mask.size


@pytest.mark.parametrize("text", [r'"\ud800"', r'["\ud800"]', "[" * 100_000])
def test_text_that_is_not_unicode_or_too_deep_is_a_typed_error(url: str, text: str) -> None:
    for path in ("/api/results", "/api/clicks"):
        head = f'{{"kind": "coco", "name": {text}, "objects": [{{"name": "a"}}]}}'.encode()
        reply = ask(url, path, len(head).to_bytes(4, "big") + head)
        assert (reply.status, reply.error[0]) == (400, "INVALID_INPUT")


# -- start and stop ----------------------------------------------------------------------------


def test_a_restarted_gateway_answers_an_open_page(engines: Path) -> None:
    data = encoded(noise(60, 40, seed=11))
    with Gateway(f"local:{engines}", port=0) as first:
        head, _ = open_image(first.url, data)
        _, parts = click(first.url, head, [[20, 20, True]]).frame
        port = first.port
    with Gateway(f"local:{engines}", port=port) as second:
        clicks = [[20, 20, True], [30, 10, False]]
        lost = click(second.url, head, clicks, parts["coverage"])
        assert lost.error[0] == "UNKNOWN_IMAGE"
        open_image(second.url, data, "?picture=no")
        answer, _ = click(second.url, head, clicks, parts["coverage"]).frame
        assert answer["maps"] == {"positive": True, "negative": 1}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(InvalidInput, match=r"loopback|expected an IP address"):
        Gateway("local:", host=host)


def test_a_taken_port_is_reported(url: str) -> None:
    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(EngineError, match="choose another --port"):
        Gateway("local:", port=port)


def test_missing_engines_are_reported_at_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="no engine"),
        Gateway(f"local:{tmp_path}/x", port=0),
    ):
        pass
    with pytest.raises(ServerUnavailable), Gateway("grpc://127.0.0.1:9", port=0):
        pass
