"""Masks of a COCO file as training pairs: what `ois label` and most annotation tools write."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ois_client.contract.errors import InvalidInput
from ois_network.training.data.collections import Collection, Pair


def coco(file: str | Path, folder: str | Path | None = None) -> Collection:
    """One pair per annotation with a run-length mask; crowds and polygons are counted as skipped.

    A pair is named FILE:NAME if its annotation has a `name` of its own, and otherwise by its id.
    folder: where `file_name`s are; by default the folder of `file`. Raises `InvalidInput` if the
    file is not COCO, or none of its masks can be used.
    """
    file = Path(file)
    root = Path(folder) if folder is not None else file.parent
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        images = {int(one["id"]): one for one in document["images"]}
        annotations = list(document["annotations"])
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{file} is not a COCO file ({type(error).__name__}: {error}); expected JSON with "
            "`images` and `annotations`"
        ) from error
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder; expected the folder of the images of {file}")
    pairs: list[Pair] = []
    skipped: Counter[str] = Counter()
    given = Counter(_given_name(annotation) for annotation in annotations)
    for annotation in annotations:
        named = given[_given_name(annotation)] == 1
        pair = _pair(annotation, images, root, named=named)
        if isinstance(pair, str):
            skipped[pair] += 1
        else:
            pairs.append(pair)
    collection = Collection(f"COCO {file}", tuple(pairs), skipped)
    if not pairs:
        raise InvalidInput(f"{file} has no mask to train on ({collection.report()})")
    return collection


def _given_name(annotation: Any) -> tuple[str, str] | None:
    """The image and the name of an annotation; None without a name."""
    if not isinstance(annotation, dict) or not annotation.get("name"):
        return None
    return str(annotation.get("image_id")), str(annotation["name"])


def _pair(annotation: Any, images: dict[int, Any], root: Path, *, named: bool) -> Pair | str:
    """The pair, or why there is none. named: no other object of the image has its name."""
    try:
        image = images.get(int(annotation["image_id"]))
        segmentation = annotation["segmentation"]
        given = _given_name(annotation) if named else None
        name = f":{given[1]}" if given else f", annotation {annotation['id']}"
    except (KeyError, TypeError, ValueError):
        return "incomplete annotation"
    if image is None:
        return "annotation without image"
    if annotation.get("iscrowd"):
        return "crowd"
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        return "polygon instead of run lengths"
    path = root / str(image["file_name"])
    if not path.is_file():
        return "missing image"
    file = str(image["file_name"])
    return Pair(f"{file}{name}", path, segmentation, picture=file)
