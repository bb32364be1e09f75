"""One zip file with the masks of all images of the page.

    annotations.json        COCO, with the classes as categories
    labels/NAME.png         per image: 0 = background, k = object k
    classes/NAME.png        per image, if there are classes: 0 = background, k = category k

    request, head   classes   names, in order
                    images    [{name, width, height, objects: [{name, label}, ...]}, ...]
             parts  m0.0      mask of object 0 of image 0 as PNG, m0.1, ..., m1.0, ...

An image without objects is in the COCO document, because "nothing here" is a result too.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_cli.clicking import MAX_OBJECTS
from ois_cli.demo.gateway.clicks import image_size
from ois_cli.demo.gateway.coco import (
    NO_CLASS,
    CocoDocument,
    NamedObject,
    read_classes,
    read_objects,
)
from ois_cli.demo.gateway.frames import read_frame
from ois_cli.demo.gateway.masks import read_mask
from ois_cli.drawing.pictures import mask_bytes
from ois_client.contract.errors import InvalidInput

#: Most bytes of a request, and so most bytes of masks.
LARGEST = 2**28
_MOST_IMAGES = 20_000


def archive(data: bytes) -> bytes:
    """Make the zip file of a frame. Raises `InvalidInput` if anything in it is wrong."""
    head, parts = read_frame(data)
    images = head.get("images")
    if not isinstance(images, list) or not 1 <= len(images) <= _MOST_IMAGES:
        raise InvalidInput(f"got no list of 1 to {_MOST_IMAGES} images; expected one")
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in images):
        raise InvalidInput("got an image without a name; expected {name, width, height, objects}")
    classes = read_classes(head)
    document = CocoDocument(classes)
    names = _names([one["name"] for one in images])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for index, image in enumerate(images):
            size = image_size(image)
            objects = read_objects(image.get("objects"))
            if len(objects) > MAX_OBJECTS:
                raise InvalidInput(
                    f"got {len(objects)} objects on {image['name']}; expected up to {MAX_OBJECTS}"
                )
            document.add_image(image["name"], *size)
            labels = np.zeros((size[1], size[0]), np.uint8)
            numbers = np.zeros((size[1], size[0]), np.uint16) if classes else None
            masks = _masks(parts, index, objects, size)
            for number, (named, mask) in enumerate(masks, start=1):
                document.add_object(mask, named)
                labels[mask == 1] = number
                if numbers is not None:
                    numbers[mask == 1] = document.categories[named.label or NO_CLASS]
            # PNG is compressed already.
            stored = zipfile.ZIP_STORED
            png = mask_bytes(labels, Path("labels.png"), several=True)
            written.writestr(f"labels/{names[index]}.png", png, stored)
            if numbers is not None:
                written.writestr(f"classes/{names[index]}.png", _class_map(numbers), stored)
        written.writestr("annotations.json", document.to_json())
    return file.getvalue()


def _masks(
    parts: dict[str, bytes], index: int, objects: list[NamedObject], size: tuple[int, int]
) -> Iterator[tuple[NamedObject, NDArray[np.uint8]]]:
    """Decoded one at a time, because all together would not fit in memory."""
    for number, named in enumerate(objects):
        png = parts.get(f"m{index}.{number}")
        if png is None:
            raise InvalidInput(
                f"got no mask m{index}.{number}; expected one per object of each image"
            )
        yield named, read_mask(png, size)


def _class_map(numbers: NDArray[np.uint16]) -> bytes:
    """(H, W) uint16 -> an 8-bit grey PNG, or a 16-bit one if there are more than 255 classes."""
    small = numbers.max() < 256
    file = io.BytesIO()
    Image.fromarray(numbers.astype(np.uint8) if small else numbers).save(file, "PNG")
    return file.getvalue()


def _names(names: list[Any]) -> list[str]:
    """Paths in the zip for images: without the suffix, unless two would be the same.

    Parts of a path that lead out of the archive are left out, for programs that do not check.
    """
    paths = [
        PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")))
        for name in (one.replace("\\", "/") for one in names)
    ]
    stems = [str(path.with_suffix("")) if path.name else "image" for path in paths]
    count = Counter(stems)
    found = [
        stem if count[stem] == 1 else str(path) for path, stem in zip(paths, stems, strict=True)
    ]
    seen: Counter[str] = Counter()
    for index, name in enumerate(found):
        seen[name] += 1
        if seen[name] > 1:
            found[index] = f"{name}-{seen[name]}"
    return found
