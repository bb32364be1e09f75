"""The COCO document that the page saves, of one image or of many."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.clicking import object_box
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import coco_of_mask

#: The category of objects without a class.
NO_CLASS = "object"

_LONGEST_NAME = 200
_MOST_CLASSES = 1000
#: Most bytes of run lengths in a document. Masks that are small as PNG can exceed it.
_LONGEST = 2**27


@dataclass(frozen=True, slots=True)
class NamedObject:
    """name: as on the page. label: its class; "" if it has none."""

    name: str
    label: str


class CocoDocument:
    """Collects images and objects. `ois_id` is an object's name on the page.

    classes: all classes of the page in order, whose numbers are the ids of the categories, also of
    classes without an object. Objects without a class get the category `NO_CLASS`.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.categories: dict[str, int] = {}
        for name in classes:
            self._category(name)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._length = 0

    def add_image(self, name: str, width: int, height: int) -> None:
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": name, "width": width, "height": height})

    def add_object(self, mask: NDArray[np.uint8], named: NamedObject) -> None:
        """Add an object of the last image. mask: (H, W) uint8, 1 = object."""
        segmentation = coco_of_mask(mask)
        self._length += len(segmentation["counts"])
        if self._length > _LONGEST:
            raise InvalidInput(
                f"got masks whose run lengths exceed {_LONGEST // 2**20} MiB; expected fewer "
                "or simpler masks. Hide some objects and save the rest"
            )
        x0, y0, x1, y1 = object_box(mask) or (0, 0, -1, -1)
        self._annotations.append(
            {
                "id": len(self._annotations) + 1,
                "image_id": len(self._images),
                "category_id": self._category(named.label or NO_CLASS),
                "segmentation": segmentation,
                "area": int(mask.sum(dtype=np.int64)),
                "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                "iscrowd": 0,
                "ois_id": named.name,
            }
        )

    def to_json(self) -> bytes:
        if not self.categories:
            self._category(NO_CLASS)
        categories = [
            {"id": number, "name": name, "supercategory": ""}
            for name, number in self.categories.items()
        ]
        document = {
            "licenses": [],
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
        return json.dumps(document, ensure_ascii=False).encode()

    def _category(self, name: str) -> int:
        return self.categories.setdefault(name, len(self.categories) + 1)


def read_objects(value: Any) -> list[NamedObject]:
    """The objects in a request, [{name, label}, ...]. Raises `InvalidInput`."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InvalidInput("got no list of objects; expected [{name, label}, ...]")
    return [
        NamedObject(*(str(one.get(key, ""))[:_LONGEST_NAME] for key in ("name", "label")))
        for one in value
    ]


def read_classes(head: Mapping[str, Any]) -> list[str]:
    """The names of the classes in a request. Raises `InvalidInput`."""
    value = head.get("classes", [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidInput("got classes that are not a list of names; expected one")
    if len(value) > _MOST_CLASSES:
        raise InvalidInput(f"got {len(value)} classes; expected at most {_MOST_CLASSES}")
    return [one[:_LONGEST_NAME] for one in value]
