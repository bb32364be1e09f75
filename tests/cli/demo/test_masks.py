"""The gateway's masks: strokes of the brush, masks from files, and the zip file of all images."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ois_cli.demo.gateway.editing import draw_stroke
from ois_cli.demo.gateway.files import ImageFolder
from ois_cli.demo.gateway.frames import read_frame, write_frame
from ois_cli.demo.gateway.loading import masks_of_file
from ois_cli.demo.gateway.server import Gateway
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import coco_of_mask, png_of_mask
from ois_client.sessions.client import Client
from support.demo.calls import Reply, ask, encoded, noise, pixels_of
from support.tiny_engines import write_engines

SIZE = (30, 20)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("b-10.png", "b-9.png", "a/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded(noise(*SIZE)))
    return folder


@pytest.fixture(scope="module")
def url(engines: Path, photos: Path) -> Iterator[str]:
    folder = ImageFolder(photos, sorted(photos.rglob("*.png")))
    with Gateway(f"local:{engines}", port=0, folder=folder, classes=["cat"]) as gateway:
        yield gateway.url


def square(x: int = 3, y: int = 2, side: int = 8) -> NDArray[np.uint8]:
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


# -- strokes -----------------------------------------------------------------------------------


def edit(url: str, mask: NDArray[np.uint8] | None, **head: object) -> Reply:
    request = {"width": SIZE[0], "height": SIZE[1], "points": [], **head}
    parts = {} if mask is None else {"mask": png_of_mask(mask)}
    return ask(url, "/api/edits", write_frame(request, parts))


def test_an_edited_mask_comes_with_its_coverage(url: str, engines: Path) -> None:
    reply = edit(url, square(), points=[[20, 10], [26, 10]], radius=2.5)
    head, parts = reply.frame
    expected = square()
    draw_stroke(expected, np.array([[20.0, 10], [26, 10]]), 2.5, paint=True)
    np.testing.assert_array_equal(pixels_of(parts["mask"]) > 0, expected > 0)
    assert head["area_px"] == expected.sum()
    assert head["box_xyxy"] == [3, 2, 28, 12]
    with Client(f"local:{engines}") as client:
        coverage = coverage_of_mask(expected, client.info.fit(*SIZE))
    assert parts["coverage"] == coverage.tobytes()
    _, erased = edit(url, square(), points=[[5, 5]], radius=100, paint=False).frame
    assert not pixels_of(erased["mask"]).any()
    _, same = edit(url, square()).frame
    np.testing.assert_array_equal(pixels_of(same["mask"]) > 0, square() > 0)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-9, 40), st.floats(-9, 30)), min_size=1, max_size=4),
    st.floats(0.1, 12),
)
def test_a_stroke_is_all_pixels_near_its_line(
    points: list[tuple[float, float]], radius: float
) -> None:
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    draw_stroke(mask, np.array(points), radius, paint=True)
    ys, xs = np.mgrid[: SIZE[1], : SIZE[0]]
    nearest = np.full(mask.shape, np.inf)
    for start, end in zip(points, [*points[1:], points[-1]], strict=True):
        shares = np.linspace(0, 1, 200)[:, None, None]
        x, y = (start[axis] * (1 - shares) + end[axis] * shares for axis in (0, 1))
        nearest = np.minimum(nearest, np.hypot(xs - x, ys - y).min(axis=0))
    reach = max(radius, 0.75)
    assert not mask[nearest > reach + 0.3].any()
    assert mask[nearest < reach - 1e-6].all()


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ({"points": [[1, 2, 3]]}, "a point that is not two numbers"),
        ({"points": [[1, True]]}, "a point that is not two numbers"),
        ({"points": [[1, 10**400]]}, "a point that is not two numbers"),
        ({"points": [[1, 1]] * 5000}, "at most 4096"),
        ({"points": [[1, 1]], "radius": 0}, "got the radius 0"),
        ({"points": [[1, 1]], "radius": 2, "paint": 1}, "paint = 1"),
        ({"width": 31}, "expected 31x20"),
        ({"width": 0}, "got width = 0"),
    ],
)
def test_a_wrong_stroke_is_reported(url: str, head: dict[str, object], text: str) -> None:
    reply = edit(url, square(), **head)
    assert (reply.status, reply.error[0]) == (400, "INVALID_INPUT")
    assert text in reply.error[1]


# -- masks from files --------------------------------------------------------------------------


def picture(pixels: NDArray[np.generic], **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def palette(values: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(values)
    image.putpalette([1, 2, 3] * 256)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def coco(**changes: object) -> dict[str, object]:
    """Two images; the second one has a run length and a polygon."""
    one, two = square(), square(20, 9, 6)
    polygon = [[20, 9, 26, 9, 26, 15, 20, 15]]
    return {
        "images": [
            {"id": 3, "file_name": "x/other.jpg", "width": 30, "height": 20},
            {"id": 7, "file_name": "x/photo.jpg", "width": 30, "height": 20},
        ],
        "annotations": [
            {"image_id": 3, "category_id": 1, "segmentation": coco_of_mask(two)},
            {"image_id": 7, "category_id": 2, "segmentation": coco_of_mask(one), "ois_id": "Tom"},
            {"image_id": 7, "category_id": 1, "segmentation": polygon},
        ],
        "categories": [{"id": 1, "name": "object"}, {"id": 2, "name": "cat"}],
        **changes,
    }


SMALL = {"id": 7, "file_name": "photo.jpg", "width": 5, "height": 5}
OTHER = {"id": 3, "file_name": "other.jpg", "width": 30, "height": 20}
LABELS = square() + 2 * square(20, 9, 6)
RLES = [coco_of_mask(square()), coco_of_mask(LABELS == 2)]
SOFT = square() * 255
SOFT[0] = 60


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png_of_mask(square()), [square()]),
        (picture(square() * 255), [square()]),
        (picture(LABELS), [square(), square(20, 9, 6)]),
        (picture(LABELS.astype(np.uint16) * 300), [square(), square(20, 9, 6)]),
        (picture(SOFT), [square()]),
        (palette(np.where(LABELS == 2, 255, LABELS).astype(np.uint8)), [square()]),
        (picture(np.dstack([LABELS * 100] * 3)), [square(), square(20, 9, 6)]),
        (picture(np.dstack([LABELS * 100] * 3 + [square() * 255])), [square()]),
        (json.dumps(coco_of_mask(square())).encode(), [square()]),
        (json.dumps(RLES).encode(), [square(), square(20, 9, 6)]),
        (json.dumps(coco()).encode(), [square(), square(20, 9, 6)]),
    ],
    ids=[
        *("1-bit", "grey", "labels", "16-bit", "soft", "void", "colours"),
        *("alpha", "rle", "rles", "coco"),
    ],
)  # fmt: skip
def test_masks_of_a_file(data: bytes, expected: list[NDArray[np.uint8]]) -> None:
    found = [one.mask for one in masks_of_file(data, "photo.jpg", SIZE)]
    np.testing.assert_array_equal(found, expected)


def test_names_and_classes_are_read_from_coco(url: str) -> None:
    request = {"name": "photo.jpg", "width": SIZE[0], "height": SIZE[1]}
    reply = ask(url, "/api/masks", write_frame(request, {"file": json.dumps(coco()).encode()}))
    head, parts = reply.frame
    assert [(one["name"], one["label"]) for one in head["objects"]] == [("Tom", "cat"), ("", "")]
    assert head["objects"][0]["area_px"] == 64
    np.testing.assert_array_equal(pixels_of(parts["mask0"]) > 0, square() > 0)
    assert {"shown1", "mask1", "coverage1"} <= set(parts)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"hello", "neither PNG nor JSON"),
        (png_of_mask(np.ones((9, 9), np.uint8)), "got a mask of 9x9 pixels; expected 30x20"),
        (png_of_mask(square() * 0), "all empty"),
        (png_of_mask(square())[:45], "damaged PNG"),
        (encoded(noise(*SIZE)), "values or colours"),
        (b'{"size": [20, 30], "counts": [1]}', "add up to 1"),
        (json.dumps(coco(annotations=[])).encode(), "without objects on photo.jpg"),
        (json.dumps(coco(images=[{"id": 1}])).encode(), "damaged COCO file"),
        (json.dumps(coco(annotations=7)).encode(), "damaged COCO file"),
        (json.dumps(coco(images=[SMALL])).encode(), "has 5x5 pixels"),
        (json.dumps(coco(images=[OTHER, OTHER])).encode(), "in which photo.jpg is not one"),
        (b"[" * 100_000, "neither PNG nor JSON"),
    ],
)  # fmt: skip
def test_a_file_without_masks_for_this_image_is_reported(url: str, data: bytes, text: str) -> None:
    request = {"name": "photo.jpg", "width": SIZE[0], "height": SIZE[1]}
    reply = ask(url, "/api/masks", write_frame(request, {"file": data}))
    assert (reply.status, reply.error[0]) == (400, "INVALID_INPUT")
    assert text in reply.error[1]


# -- the zip file ------------------------------------------------------------------------------


def image_of(name: str, *objects: dict[str, str]) -> dict[str, object]:
    return {"name": name, "width": SIZE[0], "height": SIZE[1], "objects": list(objects)}


def test_all_images_are_saved_as_coco_and_label_maps(url: str) -> None:
    from pycocotools import mask as pycoco

    cat, nothing = {"name": "Tom", "label": "cat"}, {"name": "Object 2", "label": ""}
    images = [
        image_of("a.png", cat, nothing),
        image_of("sub/b.png"),
        image_of("a.jpg", cat),
        image_of("../../c.png"),
    ]
    masks = {"m0.0": square(), "m0.1": square(9, 4), "m2.0": square(20, 9, 6)}
    parts = {name: png_of_mask(mask) for name, mask in masks.items()}
    head = {"classes": ["dog", "cat"], "images": images}
    reply = ask(url, "/api/archives", write_frame(head, parts))
    assert reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    stems = ["a.png", "sub/b", "a.jpg", "c"]
    paths = [f"{kind}/{stem}.png" for kind in ("labels", "classes") for stem in stems]
    assert set(files) == {"annotations.json", *paths}
    document = json.loads(files["annotations.json"])
    assert [one["file_name"] for one in document["images"]] == [one["name"] for one in images]
    assert [(one["id"], one["name"]) for one in document["categories"]] == [
        (1, "dog"),
        (2, "cat"),
        (3, "object"),
    ]
    assert [
        (one["id"], one["image_id"], one["category_id"]) for one in document["annotations"]
    ] == [(1, 1, 2), (2, 1, 3), (3, 3, 2)]
    for annotation, mask in zip(document["annotations"], masks.values(), strict=True):
        np.testing.assert_array_equal(pycoco.decode(annotation["segmentation"]), mask)
    labels = np.where(square(9, 4) == 1, 2, square())
    np.testing.assert_array_equal(pixels_of(files["labels/a.png.png"]), labels)
    np.testing.assert_array_equal(
        pixels_of(files["classes/a.png.png"]), np.array([0, 2, 3])[labels]
    )
    assert not pixels_of(files["labels/sub/b.png"]).any()


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ({"images": []}, "1 to 20000 images"),
        ({"images": [{"width": 3}]}, "an image without a name"),
        ({"images": [image_of("a", {"name": "x"})]}, "no mask m0.0"),
        ({"images": [image_of("a")], "classes": [1]}, "classes that are not a list"),
        ({"images": [{**image_of("a"), "objects": ["x"]}]}, "no list of objects"),
        ({"images": [{**image_of("a"), "height": "x"}]}, "got height = 'x'"),
    ],
)
def test_a_wrong_archive_is_reported(url: str, head: dict[str, object], text: str) -> None:
    reply = ask(url, "/api/archives", write_frame(head, {}))
    assert (reply.status, reply.error[0]) == (400, "INVALID_INPUT")
    assert text in reply.error[1]


# -- the folder --------------------------------------------------------------------------------


def test_the_folder_is_listed_in_natural_order_and_served_by_number(url: str, photos: Path) -> None:
    info = json.loads(ask(url, "/api/info").body)
    files = info["folder"]["files"]
    assert files == ["a/c.png", "b-9.png", "b-10.png"]
    assert info["classes"] == ["cat"]
    for number, name in enumerate(files):
        assert ask(url, f"/folder/{number}").body == (photos / name).read_bytes()
    for path in ("/folder/3", "/folder/-1", "/folder/x", "/folder/../b-9.png", "/folder"):
        assert ask(url, path).status == 404


def test_an_image_that_was_removed_is_reported(url: str, photos: Path) -> None:
    data = (photos / "b-9.png").read_bytes()
    (photos / "b-9.png").unlink()
    reply = ask(url, "/folder/1")
    (photos / "b-9.png").write_bytes(data)
    assert (reply.status, reply.error[0]) == (400, "INVALID_IMAGE")
    assert "b-9.png cannot be read" in reply.error[1]


def test_attention_without_a_network_is_not_found(url: str) -> None:
    assert json.loads(ask(url, "/api/info").body)["attention"] is False
    assert ask(url, "/api/attention", write_frame({"clicks": []}, {})).status == 404


def test_another_size_of_a_mask_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected 30x20"):
        next(masks_of_file(json.dumps(coco_of_mask(np.ones((3, 3), np.uint8))).encode(), "x", SIZE))


def test_frames_have_room_for_the_names_of_many_objects() -> None:
    objects = [{"name": f"Object {k}", "label": "a class of its own"} for k in range(20_000)]
    assert read_frame(write_frame({"objects": objects}, {}))[0] == {"objects": objects}
