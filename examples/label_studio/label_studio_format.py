"""Label Studio's requests to clicks, and masks to Label Studio's results. No I/O.

Formats: the ML backend's `/predict` request and Label Studio's prediction JSON
(https://labelstud.io/guide/ml_create, https://labelstud.io/guide/predictions).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ois_client import Click, InvalidClick, InvalidInput
from ois_client.formats.brush import brush_of_mask
from ois_client.formats.polygons import rings_of_mask

#: Corners of polygons may move this far, in pixels of the image.
POLYGON_TOLERANCE_PX = 1.0

KEY_POINTS = "keypointlabels"


@dataclass(frozen=True, slots=True)
class Controls:
    """Where a project's labelling interface wants masks.

    kind: "brushlabels" or "polygonlabels". from_name, to_name: the control and the image tag.
    value: the key of a task's data that holds the image. labels: the control's; empty where
    they come from the task.
    """

    kind: str
    from_name: str
    to_name: str
    value: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person has clicked on one object so far.

    width, height: of the image as the browser shows it, after EXIF orientation, pixels.
    """

    clicks: tuple[Click, ...]
    label: str
    width: int
    height: int


def read_controls(label_config: object) -> Controls:
    """A project's labelling interface (XML) -> where masks go: `BrushLabels`, else `PolygonLabels`.

    Raises `InvalidInput` when it is no XML or has no such control on an image.
    """
    if not isinstance(label_config, str):
        raise InvalidInput(f"got the label_config {label_config!r}; expected its XML")
    try:
        root = ElementTree.fromstring(label_config)
    except ElementTree.ParseError as error:
        raise InvalidInput(f"got a label_config that is not XML: {error}") from error
    images = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    for tag_name in ("BrushLabels", "PolygonLabels"):
        for tag in root.iter(tag_name):
            name, to_name = tag.get("name"), tag.get("toName")
            if name and to_name and images.get(to_name):
                labels = [one.get("alias") or one.get("value") or "" for one in tag.iter("Label")]
                return Controls(tag_name.lower(), name, to_name, images[to_name], tuple(labels))
    raise InvalidInput(
        "the labelling interface has no <BrushLabels> or <PolygonLabels> for an <Image>; add one, "
        'beside <KeyPointLabels smart="true"> for the clicks'
    )


def read_prompt(context: object, controls: Controls) -> Prompt | None:
    """The `context` of a `/predict` request -> all clicks so far; None when nobody has clicked.

    Raises `InvalidInput` and `InvalidClick` for boxes, for labels that the control does not have,
    for turned images, and for anything that is not as documented.
    """
    if not context:
        return None
    if not isinstance(context, Mapping):
        raise InvalidInput(f"got a context of type {type(context).__name__}; expected an object")
    regions = context.get("result")
    if not regions:
        return None
    if not isinstance(regions, list) or not all(isinstance(one, Mapping) for one in regions):
        raise InvalidInput("got a context whose result is not a list of regions")
    width, height = _size(regions[0])
    clicks = tuple(_click(region, width, height) for region in regions)
    label = _label(regions[-1])
    if controls.labels and label not in controls.labels:
        raise InvalidInput(
            f"got key points labelled {label!r}, which <{controls.from_name}> does not have: "
            f"{', '.join(controls.labels)}. Give both controls the same labels"
        )
    return Prompt(clicks, label, width, height)


def prediction_of_mask(
    mask: NDArray[np.uint8], label: str, controls: Controls, model_version: str
) -> dict[str, Any]:
    """mask: (H, W), 1 = object -> one entry of a `/predict` reply's `results`.

    For a brush one region, for polygons one for each part of the object, its holes filled: Label
    Studio's polygons have none. An empty mask has no region.
    """
    height, width = mask.shape
    # Ids must differ from those of regions accepted before, and need be no more than that.
    name = hashlib.sha256(label.encode() + np.packbits(mask).tobytes()).hexdigest()[:10]
    values: list[dict[str, Any]] = []
    if controls.kind == "polygonlabels":
        scale = np.array([100 / width, 100 / height])
        values = [
            {"points": (ring.points * scale).round(4).tolist(), "closed": True}
            for ring in rings_of_mask(mask, POLYGON_TOLERANCE_PX)
            if not ring.hole
        ]
    elif mask.any():
        values = [{"format": "rle", "rle": brush_of_mask(mask)}]
    regions = [
        {
            "id": f"{name}-{number}",
            "from_name": controls.from_name,
            "to_name": controls.to_name,
            "type": controls.kind,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "readonly": False,
            "value": {**value, controls.kind: [label]},
        }
        for number, value in enumerate(values)
    ]
    return {"result": regions, "model_version": model_version}


def _size(region: Mapping[str, Any]) -> tuple[int, int]:
    width, height = region.get("original_width"), region.get("original_height")
    if not all(isinstance(side, int) and side > 0 for side in (width, height)):
        raise InvalidInput(
            f"got a region with original_width {width!r} and original_height {height!r}; expected "
            "the image's size in pixels"
        )
    return width, height  # type: ignore[return-value]


def _click(region: Mapping[str, Any], width: int, height: int) -> Click:
    """One region, x and y in percent of the image."""
    kind, value = region.get("type"), region.get("value")
    if kind != KEY_POINTS or not isinstance(value, Mapping):
        raise InvalidInput(
            f"got a region of type {kind!r}; this network's prompts are clicks. Use "
            '<KeyPointLabels smart="true">'
        )
    if region.get("image_rotation"):
        raise InvalidInput(
            f"got an image turned by {region['image_rotation']} degrees; turn it back before you "
            "click"
        )
    if _size(region) != (width, height):
        raise InvalidInput("got key points of images of different sizes in one request")
    positive = region.get("is_positive", value.get("positive"))
    if not isinstance(positive, bool | int):
        raise InvalidInput(
            "got a key point that does not say whether it adds; expected is_positive true or false"
        )
    x, y = value.get("x"), value.get("y")
    if not isinstance(x, int | float) or not isinstance(y, int | float):
        raise InvalidClick(f"got a key point at x {x!r}, y {y!r}; expected percent of the image")
    return Click.on_canvas(
        x * width / 100, y * height / 100, bool(positive), width=width, height=height
    )


def _label(region: Mapping[str, Any]) -> str:
    labels: Sequence[Any] | None = region["value"].get(KEY_POINTS)
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        raise InvalidInput(
            f"got a key point with the labels {labels!r}; choose a label before you click"
        )
    return labels[0]
