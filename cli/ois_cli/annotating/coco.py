"""The COCO document that `ois annotate` writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from ois_cli.annotating.input import Input
from ois_cli.annotating.journal import FinishedLine
from ois_client.contract.transport import ModelInfo


def document(
    given: Input, finished: Mapping[int, FinishedLine], model: ModelInfo, engines: list[str]
) -> dict[str, Any]:
    """Return the COCO document of all finished lines.

    finished: by `Line.number`; other lines are omitted. engines: names of the engines that made
    the masks. Ids depend only on the input, so they stay the same when failed lines succeed later.

    `segmentation` is compressed RLE as in pycocotools, `bbox` is [x, y, width, height] in pixels,
    `area` is in pixels and `iscrowd` is 0. Two keys are not COCO's: `ois_id`, the input's id of
    the object or else of its line, and `ois_digest`, the digest of the image file.
    """
    image_ids = {image: number for number, image in enumerate(given.by_image(), start=1)}
    categories: dict[str, int] = {}
    images: dict[int, dict[str, Any]] = {}
    annotations = []
    annotation_id = 0
    for line in given.lines:
        result = finished.get(line.number)
        image_id = image_ids[line.image]
        for index, target in enumerate(line.targets):
            annotation_id += 1
            category_id = categories.setdefault(target.category, len(categories) + 1)
            if result is None:
                continue
            mask = result.found[index]
            ois_id = target.id if target.id is not None else line.id
            annotations.append(
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": category_id,
                    "segmentation": {
                        "size": [result.height, result.width],
                        "counts": mask.counts,
                    },
                    "area": mask.area,
                    "bbox": list(mask.box),
                    "iscrowd": 0,
                    **({} if ois_id is None else {"ois_id": ois_id}),
                }
            )
        if result is not None and image_id not in images:
            images[image_id] = {
                "id": image_id,
                "file_name": line.name,
                "width": result.width,
                "height": result.height,
                "ois_digest": result.digest,
            }
    return {
        "info": {
            "description": f"Masks from clicks, by {model.network}",
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
