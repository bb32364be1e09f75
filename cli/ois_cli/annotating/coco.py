"""The COCO document of `ois annotate`: images, annotations with RLE masks, categories."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from ois_cli.annotating.input import Input
from ois_cli.annotating.journal import Done
from ois_client.contract.transport import ModelInfo


def document(
    given: Input, done: Mapping[int, Done], model: ModelInfo, engines: list[str]
) -> dict[str, Any]:
    """done: by `Line.number`; lines that are not in it are left out.

    Ids follow from the input alone, so that they stay when lines that failed succeed later.
    `segmentation` is compressed RLE, as pycocotools has it, `bbox` is x, y, width, height in
    pixels and `area` in pixels, `iscrowd` is 0. Beyond COCO: `ois_id`, the input's id of an
    object, or else of its line; `ois_digest`, of an image's content.
    """
    image_ids = {image: number for number, image in enumerate(given.by_image(), start=1)}
    categories: dict[str, int] = {}
    images: dict[int, dict[str, Any]] = {}
    annotations = []
    annotation_id = 0
    for line in given.lines:
        answer = done.get(line.number)
        image_id = image_ids[line.image]
        for index, target in enumerate(line.targets):
            annotation_id += 1
            category_id = categories.setdefault(target.category, len(categories) + 1)
            if answer is None:
                continue
            found = answer.found[index]
            named = target.id if target.id is not None else line.id
            annotations.append(
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": category_id,
                    "segmentation": {
                        "size": [answer.height, answer.width],
                        "counts": found.counts,
                    },
                    "area": found.area,
                    "bbox": list(found.box),
                    "iscrowd": 0,
                    **({} if named is None else {"ois_id": named}),
                }
            )
        if answer is not None and image_id not in images:
            images[image_id] = {
                "id": image_id,
                "file_name": line.name,
                "width": answer.width,
                "height": answer.height,
                "ois_digest": answer.digest,
            }
    return {
        "info": {
            "description": f"Masks of clicks, by {model.network}",
            "date_created": datetime.now(UTC).isoformat(timespec="seconds"),
            "ois": {
                **dataclasses.asdict(model),
                "engine": ", ".join(engines),
                "version": version("ois-deploy"),
            },
        },
        "licenses": [],
        "images": [images[image_id] for image_id in sorted(images)],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for name, number in categories.items()
        ],
    }
