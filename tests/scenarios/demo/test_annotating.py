"""Annotating a folder on the page of `ois demo`, in Chromium and in Firefox, with real engines.

Boxes, lines, the brush, masks from files, classes, the list of images, the zip file of all images,
and all of it without a mouse.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.clicks import Click
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.masks import coco_of_mask
from ois_client.sam.boxes import clicks_of_box
from ois_client.sessions.client import Client
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_runtime.engines.local import LocalTransport

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect  # noqa: E402

from ois_cli.demo.gateway.attention import AttentionNetwork  # noqa: E402
from ois_cli.demo.gateway.editing import draw_stroke  # noqa: E402
from ois_cli.demo.gateway.files import ImageFolder  # noqa: E402
from ois_cli.demo.gateway.server import Gateway  # noqa: E402
from support.demo.page import DemoPage  # noqa: E402
from support.network_scenes import micro  # noqa: E402

BROWSERS = ("chromium", "firefox")
WIDTH, HEIGHT = 112, 84

OpenPage = Callable[..., DemoPage]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images; as text, photo-10 sorts before photo-2."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("photo-1.png", "photo-2.png", "photo-10.png")):
        pixels = np.random.default_rng(seed).integers(60, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def gateway(
    engines: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Engines in this process: how a server answers is checked in test_browser.py.

    The attention is another network's, which does for first clicks: they have no coverage.
    """
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "micro.safetensors"
    save_checkpoint(micro(), checkpoint, trained=False)
    content: dict[str, Any] = {
        "folder": ImageFolder(photos, sorted(photos.iterdir())),
        "classes": ["cat", "dog"],
        "attention": AttentionNetwork(checkpoint),
    }
    with Gateway(f"local:{engines}", port=0, **content) as running:
        yield running


@pytest.fixture
def client(local: LocalTransport) -> Client:
    return Client(local)


@pytest.fixture
def page(open_page: OpenPage) -> DemoPage:
    """The page with the folder's first image, in a profile without earlier work."""
    opened = open_page()
    opened.size = (WIDTH, HEIGHT)
    expect(opened.status).to_contain_text("photo-1.png, 112 × 84 pixels")
    return opened


def expected(client: Client, photos: Path, clicks: list[Click]) -> NDArray[np.uint8]:
    return client.segment(photos / "photo-1.png", clicks).masks[0]


def test_a_box_and_a_line_are_clicks_that_are_answered_together(
    page: DemoPage, client: Client, photos: Path
) -> None:
    page.press("b")
    page.drag((30, 20), (80, 60))
    page.expect_clicks("Object 1", 5)
    points, labels = clicks_of_box((30, 20, 80, 60), WIDTH, HEIGHT)
    box = [Click(x, y, label == 1) for (x, y), label in zip(points, labels, strict=True)]
    # The mouse is at whole pixels of the screen, so the corners are near those of the box.
    mask = page.mask() > 0
    assert iou(mask, expected(client, photos, box)) > 0.95
    page.press("Control+z")
    assert page.sizes() == ["no clicks"]
    page.press("l")
    page.drag((20, 40), (76, 40))
    page.keep("12-line")
    page.expect_clicks("Object 1", 6)  # 56 pixels in steps of at most 7, but not more than 6 clicks
    line = [Click(20 + k * 56 / 5, 40) for k in range(6)]
    assert iou(page.mask() > 0, expected(client, photos, line)) > 0.9
    page.drag((10, 70), (17, 70), button="right")
    page.expect_clicks("Object 1", 8)


def test_a_painted_mask_is_the_previous_mask_of_the_next_click(
    page: DemoPage, client: Client, photos: Path
) -> None:
    page.press("p")
    page.drag((40, 20), (40, 60))
    expect(page.status).to_contain_text("Object 1:")
    expect(page.status).to_contain_text("after painting")
    painted = page.mask() > 0
    radius = 14 / page.scale()
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    draw_stroke(drawn, np.array([[40, 20], [40, 60]], float), radius, paint=True)
    assert iou(painted, drawn) > 0.95
    page.drag((40, 40), (60, 40), button="right")
    expect(page.status).to_contain_text("after erasing")
    edited = page.mask() > 0
    assert not edited[40, 40]
    assert edited[25, 40]
    page.keep("13-brush")
    page.press("c")
    page.click(70, 30)
    page.expect_clicks("Object 1", 1)
    geometry = client.info.fit(WIDTH, HEIGHT)
    coverage = coverage_of_mask(edited, geometry)
    photo = photos / "photo-1.png"
    reply = client.segment(photo, [Click(70, 30)], coverage=[coverage])
    without = client.segment(photo, [Click(70, 30)])
    assert reply.masks[0].sum() > without.masks[0].sum()
    assert iou(page.mask() > 0, reply.masks[0]) > 0.95
    page.press("Control+z")
    np.testing.assert_array_equal(page.mask() > 0, edited)


def test_masks_of_files_are_refined_and_saved_with_their_classes(
    page: DemoPage, tmp_path: Path
) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:30, 10:40], labels[50:70, 60:100] = 1, 2
    Image.fromarray(labels).save(tmp_path / "labels.png")
    page.page.locator("#mask-file").set_input_files(tmp_path / "labels.png")
    expect(page.status).to_contain_text("2 objects from labels.png")
    page.press("2")
    expect(page.page.locator("#objects em")).to_have_text(["dog"])
    np.testing.assert_array_equal(page.mask(), labels)
    page.click(25, 20)
    page.expect_clicks("Object 1", 1)
    coco = json.loads(page.save("coco"))
    assert [one["category_id"] for one in coco["annotations"]] == [2, 3]
    assert [one["name"] for one in coco["categories"]] == ["cat", "dog", "object"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(coco_of_mask(np.ones((9, 9), np.uint8))))
    page.page.locator("#mask-file").set_input_files(other)
    expect(page.trouble).to_contain_text("got a mask of 9x9 pixels; expected 112x84")


def test_a_folder_is_annotated_without_a_mouse(page: DemoPage) -> None:
    names = page.page.locator("#images .pick span")
    expect(names).to_have_text(["photo-1.png", "photo-2.png", "photo-10.png"])
    page.press("ArrowLeft", "Enter")
    page.expect_clicks("Object 1", 1)
    page.press("1", "n", "b", "ArrowRight", "Enter", *["Shift+ArrowDown"] * 9, *["ArrowRight"] * 2)
    page.press("Enter")
    page.expect_clicks("Object 2", 5)
    first = page.mask()
    page.keep("14-folder")
    page.press("d")
    expect(page.status).to_contain_text("photo-2.png, 112 × 84")
    expect(page.page.locator("#album-count")).to_have_text("1 of 3 done")
    page.press("c", "ArrowRight", "Backspace", "Escape", "PageDown")
    expect(page.status).to_contain_text("photo-10.png, 112 × 84")
    page.press("d")  # nothing on this image is a result too
    expect(page.status).to_contain_text("photo-2.png, 112 × 84")
    page.page.reload()
    page.wait_ready()
    expect(page.page.locator("#album-count")).to_have_text("2 of 3 done")
    assert page.page.locator("#images .active .pick span").inner_text() == "photo-2.png"
    page.press("PageUp")
    expect(page.status).to_contain_text("photo-1.png, 112 × 84")
    np.testing.assert_array_equal(page.mask(), first)
    with zipfile.ZipFile(io.BytesIO(page.save("all"))) as archive:
        coco = json.loads(archive.read("annotations.json"))
        saved = np.asarray(Image.open(io.BytesIO(archive.read("labels/photo-1.png"))))
        assert "classes/photo-10.png" in archive.namelist()
    assert [one["file_name"] for one in coco["images"]] == [
        "photo-1.png",
        "photo-2.png",
        "photo-10.png",
    ]
    assert [one["image_id"] for one in coco["annotations"]][:2] == [1, 1]
    np.testing.assert_array_equal(saved, first)


def test_the_attention_of_the_last_click_is_shown(page: DemoPage) -> None:
    page.click(40, 40)
    page.expect_clicks("Object 1", 1)
    page.page.locator("#attention summary").click()
    maps = page.page.locator("#attention-maps label")
    kinds = ("without M", "with M", "object")
    expect(maps).to_have_text([f"{block}: {kind}" for block in (1, 2) for kind in kinds])
    before = page.picture()
    maps.nth(1).click()
    expect(page.page.locator("#legend")).to_contain_text("large weight")
    page.keep("15-attention")
    assert (page.picture() != before).any(axis=2).mean() > 0.2
    for height in ("scrollHeight", "clientHeight"):  # only the panels scroll
        assert page.page.locator("html").evaluate(f"(html) => html.{height}") == 800


def iou(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    both, either = (one > 0) & (other > 0), (one > 0) | (other > 0)
    return float(both.sum() / either.sum())
