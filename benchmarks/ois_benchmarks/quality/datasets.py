"""Data sets for quality: objects, each with its image and its mask.

    scenes[:COUNT]          held-out procedural scenes (default 200), always the same ones
    lookalikes[:COUNT]      likewise, with objects that only depth and edges tell apart
    distinct[:COUNT]        likewise, with objects that all look different
    photos[:COUNT]          the photographs in `photographs/`, several objects in each
    hqseg44k:ROOT           HQSeg44K val, 1,537 images
    davis:ROOT              DAVIS345, 345 frames, all objects of a frame as one
    folders:IMAGES,MASKS    two folders whose files match by stem
    coco:FILE[,IMAGES]      the run-length masks of a COCO file, with the folder of its images

Images and masks keep their own size. Resizing to the network's size is up to the transport.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_network.training.data.coco import coco
from ois_network.training.data.collections import (
    Collection,
    Pair,
    davis,
    folders,
    hqseg44k,
    read_pair,
)
from ois_network.training.scenes.scene import SceneKind

DEFAULT_SCENES = 200
#: Photographs with masks that come with this package: `annotations.json` and its images.
PHOTOGRAPHS = Path(__file__).with_name("photographs")

#: The scenes whose pixels identify the generator: every 25th of the default set.
_FINGERPRINTED = range(0, DEFAULT_SCENES, 25)

#: Fingerprints in results of earlier versions -> the present fingerprint of the same scenes.
#: Earlier versions hashed the generator's source text, so a changed comment changed them.
#: Add an entry only for a version that drew the same pixels (both were checked on 23 scenes).
_DRAWN = "aa3e36ce7f9dc22c465dc2d547a6512e2cfca04952c712de455cd4678f561c7a"
_FORMER_FINGERPRINTS = {
    "a015899bc013581c12fb0171c02aabb7c6ecf900895b43a8fe16a804beb021b8": _DRAWN,
    "fb85b1de697b241fa07d429f99805f6af7d76f2b0911ecf7453b2f72bcb72805": _DRAWN,
}


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """image: a file, or (H, W, 3) uint8 RGB. mask: (H, W) bool, 1 = object."""

    image: Path | NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Item:
    """name: unique within the data set. load: raises `SkippedPair` if the pair is unusable.

    picture: name of the image if it can have several objects, otherwise "".
    """

    name: str
    load: Callable[[], Target]
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """label: for readers. slug: for file names. fingerprint: equal for equal names and contents
    (for files: names and sizes). lost: reason -> number of files without a partner.
    """

    label: str
    slug: str
    count: int
    fingerprint: str
    items: Callable[[], Iterator[Item]]
    lost: Mapping[str, int] = field(default_factory=dict)

    def describe(self) -> dict[str, str | int]:
        """JSON-ready. Equal for two runs on the same objects."""
        return {"name": self.label, "objects": self.count, "fingerprint": self.fingerprint}


def open_dataset(text: str, *, limit: int | None = None, partial: bool = False) -> Dataset:
    """Open a data set by its text, see the top of this file.

    limit: use only this many objects, spread evenly over the collection. partial: accept missing
    folders of HQSeg44K. Raises `InvalidInput` for an unknown data set or missing files.
    """
    kind, _, where = text.partition(":")
    if kind in list(SceneKind) and (where.isdecimal() or text == kind):
        count = int(where) if where else DEFAULT_SCENES
        if count:
            return scenes(min(count, limit or count), SceneKind(kind))
    elif kind == "hqseg44k" and where:
        collection = hqseg44k(where, "val", partial=partial)
        label = "HQSeg44K val"
        if not collection.complete:
            label += f", {len(collection.pairs)} of {collection.expected}"
        return _of_pairs(label, kind, collection, limit)
    elif kind == "davis" and where:
        collection = davis(where)
        # Only the published frames may be shown beside published numbers.
        label = "DAVIS345" if collection.complete else f"DAVIS, {len(collection.pairs)} frames"
        return _of_pairs(label, kind, collection, limit)
    elif kind == "folders" and where.count(",") == 1:
        images, masks = where.split(",")
        return _of_pairs(Path(images).name or "folders", kind, folders(images, masks), limit)
    elif kind == "photos" and (where.isdecimal() or text == kind):
        given = [each for each in (int(where) if where else None, limit) if each is not None]
        if 0 not in given:
            return photographs(min(given, default=None))
    elif kind == "coco" and where:
        file, _, images = where.partition(",")
        return _of_pairs(f"COCO {Path(file).name}", kind, coco(file, images or None), limit)
    raise InvalidInput(
        f"got the data {text!r}; expected {', '.join(SceneKind)} or photos, each also with "
        ":COUNT, hqseg44k:ROOT, davis:ROOT, folders:IMAGES,MASKS or coco:FILE[,IMAGES]"
    )


def photographs(limit: int | None = None, folder: Path = PHOTOGRAPHS) -> Dataset:
    """The photographs in `folder`, or `limit` of their objects, spread evenly.

    Raises `InvalidInput` if the folder has no `annotations.json`, or an image of it is missing: a
    part of these photographs is another data set.
    """
    collection = coco(folder / "annotations.json")
    if collection.skipped:
        raise InvalidInput(
            f"the photographs are incomplete ({collection.report()}); install the package again"
        )
    return _of_pairs("photographs", "photos", collection, limit)


def scenes(count: int, kind: SceneKind = SceneKind.MIXED) -> Dataset:
    """`count` held-out procedural scenes at their own size."""
    # Imported here because it imports torch, which other data sets do not need.
    from ois_network.training.evaluate import held_out

    def items() -> Iterator[Item]:
        for number, (scene, chosen) in enumerate(held_out(count, kind=kind)):
            target = Target(scene.image, scene.instances == chosen)
            yield Item(f"scene-{number:05d}", lambda target=target: target)  # type: ignore[misc]

    return Dataset(
        f"held-out {kind.label}",
        f"{kind}{count}",
        count,
        f"{count}:{scenes_fingerprint(kind)}",
        items,
    )


@cache
def scenes_fingerprint(kind: SceneKind = SceneKind.MIXED) -> str:
    """sha256 over image and target mask of some scenes that are spread over the default set.

    It changes when an edit of the generator, or another version of its libraries, draws other
    pixels: older results are then about other scenes.
    """
    from ois_network.training.evaluate import scene_with_target

    digest = hashlib.sha256()
    for index in _FINGERPRINTED:
        if (found := scene_with_target(index, kind=kind)) is not None:
            scene, target = found
            digest.update(scene.image.tobytes() + (scene.instances == target).tobytes())
    return digest.hexdigest()


def with_present_fingerprint(described: Mapping[str, Any]) -> dict[str, Any]:
    """A log's `Dataset.describe()`, with a former fingerprint of the same scenes replaced."""
    count, _, digest = str(described.get("fingerprint", "")).rpartition(":")
    if digest not in _FORMER_FINGERPRINTS:
        return dict(described)
    return {**described, "fingerprint": f"{count}:{_FORMER_FINGERPRINTS[digest]}"}


def _of_pairs(label: str, slug: str, collection: Collection, limit: int | None) -> Dataset:
    pairs = collection.pairs
    if limit is not None and limit < len(pairs):
        pairs = tuple(pairs[k * len(pairs) // limit] for k in range(limit))
        slug, label = f"{slug}{limit}", f"{label}, {limit} of {len(collection.pairs)}"

    def items() -> Iterator[Item]:
        for pair in pairs:
            yield Item(pair.name, lambda pair=pair: _read(pair), pair.picture)  # type: ignore[misc]

    digest = hashlib.sha256()
    for pair in pairs:
        mask = pair.mask
        size = mask.stat().st_size if isinstance(mask, Path) else len(str(mask["counts"]))
        sizes = pair.image.stat().st_size, size
        digest.update(f"{pair.name}\0{sizes}\n".encode())
    return Dataset(label, slug, len(pairs), digest.hexdigest(), items, dict(collection.skipped))


def _read(pair: Pair) -> Target:
    """The path of the image, as a user would give it, and the mask, once both could be read."""
    return Target(pair.image, read_pair(pair)[1])
