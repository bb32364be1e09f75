"""Converts Label Studio's requests to clicks, and masks to Label Studio's results. No I/O.

The formats are the `/predict` request of ML backends and Label Studio's prediction JSON
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

#: The largest distance of a polygon from the mask's outline, in pixels of the image.
POLYGON_TOLERANCE_PX = 1.0

KEY_POINTS = "keypointlabels"


@dataclass(frozen=True, slots=True)
class Controls:
    """The control of a labelling interface that receives the masks.

    kind: "brushlabels" or "polygonlabels". from_name, to_name: names of the control and of the
    image tag. value: the key of the image in a task's data. labels: the labels of the control;
    empty if they come from the task.
    """

    kind: str
    from_name: str
    to_name: str
    value: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """All clicks on one object so far.

    width, height: of the image in pixels, after EXIF orientation, as the browser shows it.
    left_out: why regions of the request are not among the clicks, a sentence each.
    """

    clicks: tuple[Click, ...]
    label: str
    width: int
    height: int
    left_out: tuple[str, ...] = ()


def read_controls(label_config: object) -> Controls:
    """Return the control for masks in a labelling interface: `BrushLabels`, else `PolygonLabels`.

    label_config: XML. Raises `InvalidInput` if it is not XML or has no such control on an image.
    """
    if not isinstance(label_config, str):
        raise InvalidInput(f"got the label_config {str(label_config)[:80]}; expected its XML")
    try:
        root = ElementTree.fromstring(label_config)
    except (ElementTree.ParseError, ValueError) as error:  # ValueError: a lone surrogate
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
        'next to <KeyPointLabels smart="true"> for the clicks'
    )


def read_prompt(
    context: object, controls: Controls, signs: Mapping[str, bool] | None = None
) -> Prompt | None:
    """Return all clicks in the `context` of a `/predict` request; None if there are none.

    signs: what `saved_signs` returns, for key points that have lost their sign.

    Regions that are no clicks, that lie on a rotated or another image or that do not have the
    documented format are left out, so that one of them does not cost the mask of all others.
    Raises `InvalidInput` or `InvalidClick` for the last of them if no click is left, and if the
    control does not have the clicks' label.
    """
    if not context:
        return None
    if not isinstance(context, Mapping):
        raise InvalidInput(f"got a context of type {type(context).__name__}; expected an object")
    regions = context.get("result")
    if not regions:
        return None
    if not isinstance(regions, list):
        raise InvalidInput("got a context whose result is not a list of regions; expected a list")
    clicks: list[Click] = []
    left_out: list[InvalidInput] = []
    size, label = None, ""
    for region in regions:
        try:
            click, its_size, its_label = _click(region, signs or {})
            if size not in (None, its_size):
                raise InvalidInput(
                    "got key points of images of different sizes; expected points of one image"
                )
        except InvalidInput as error:
            left_out.append(error)
        else:
            size, label = its_size, its_label
            clicks.append(click)
    if size is None:
        raise left_out[-1]
    if controls.labels and label not in controls.labels:
        raise InvalidInput(
            f"got key points labelled {label!r}; expected a label of <{controls.from_name}>: "
            f"{', '.join(controls.labels)}. Give both controls the same labels"
        )
    return Prompt(tuple(clicks), label, *size, tuple(str(error) for error in left_out))


def saved_signs(task: Mapping[str, Any]) -> dict[str, bool]:
    """Return the signs of the task's saved key points by their id: True adds to the mask.

    The page sends no sign of a key point that it has loaded from a draft, but the draft has it.
    """
    signs: dict[str, bool] = {}
    for kind in ("annotations", "drafts"):
        saved = task.get(kind)
        for one in saved if isinstance(saved, list) else []:
            regions = one.get("result") if isinstance(one, Mapping) else None
            for region in regions if isinstance(regions, list) else []:
                if isinstance(region, Mapping) and isinstance(region.get("is_positive"), bool):
                    signs[str(region.get("id"))] = region["is_positive"]
    return signs


def no_prediction(model_version: str) -> dict[str, Any]:
    """Return the entry of `results` for a task without clicks.

    Label Studio logs an error for every task for which it gets no entry.
    """
    return {"result": [], "model_version": model_version}


def prediction_of_mask(
    mask: NDArray[np.uint8], label: str, controls: Controls, model_version: str
) -> dict[str, Any]:
    """Return one entry of `results` in the reply to `/predict`.

    mask: (H, W), 1 = object. A brush mask is one region. With polygons, each part of the object
    is one region, and holes are filled, because Label Studio's polygons cannot have holes. An
    empty mask gives no region.
    """
    height, width = mask.shape
    # Ids only have to differ from those of the regions that were accepted before.
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
    if not all(isinstance(side, int) and 0 < side < 2**31 for side in (width, height)):
        raise InvalidInput(
            f"got a region with original_width {width!r} and original_height {height!r}; expected "
            "the image's size in pixels"
        )
    return width, height  # type: ignore[return-value]


def _click(region: object, signs: Mapping[str, bool]) -> tuple[Click, tuple[int, int], str]:
    """Return the click of one region, whose x and y are in percent of the image, the size of the
    image and the label."""
    if not isinstance(region, Mapping):
        raise InvalidInput(f"got a region of type {type(region).__name__}; expected an object")
    width, height = _size(region)
    kind, value = region.get("type"), region.get("value")
    if kind != KEY_POINTS or not isinstance(value, Mapping):
        raise InvalidInput(
            f"got a region of type {kind!r}; expected only clicks. Use "
            '<KeyPointLabels smart="true">'
        )
    if region.get("image_rotation"):
        raise InvalidInput(
            f"got an image rotated by {region['image_rotation']} degrees; expected none. Rotate it "
            "back before you click"
        )
    label = _label(value)
    # Without any sign the label decides: a point with the object's label is on the object.
    positive = next(
        (
            bool(sign)
            for sign in (
                region.get("is_positive"),
                value.get("positive"),
                signs.get(str(region.get("id"))),
            )
            if isinstance(sign, bool | int)
        ),
        True,
    )
    x, y = value.get("x"), value.get("y")
    if not isinstance(x, int | float) or not isinstance(y, int | float):
        raise InvalidClick(f"got a key point at x {x!r}, y {y!r}; expected percent of the image")
    try:
        at = float(x) * width / 100, float(y) * height / 100
    except OverflowError:  # JSON's integers have no limit
        raise InvalidClick("got a key point far outside; expected percent of the image") from None
    click = Click.on_canvas(*at, positive, width=width, height=height)
    return click, (width, height), label


def _label(value: Mapping[str, Any]) -> str:
    labels: Sequence[Any] | None = value.get(KEY_POINTS)
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        raise InvalidInput(
            f"got a key point with the labels {labels!r}; expected one. "
            "Choose a label before you click"
        )
    return labels[0]
