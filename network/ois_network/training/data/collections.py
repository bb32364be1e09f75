"""Pairs of an image and a mask on disk: HQSeg44K, DAVIS, or any two folders.

    HQSeg44K (SegNext `hqseg44k.py`; root is sam-hq's data folder), images .jpg, masks .png
      train   DIS5K/DIS-TR/{im,gt}                                              44,320 pairs
              thin_object_detection/ThinObject5K/{images_train,masks_train}
              cascade_psp/{fss_all,DUTS-TR,DUTS-TE,ecssd,MSRA_10K}   image and mask side by side
      val     DIS5K/DIS-VD/{im,gt}                                               1,537 pairs
              thin_object_detection/ThinObject5K/{images_test,masks_test}
              thin_object_detection/COIFT/{images,masks}
              thin_object_detection/HRSOD/{images,masks_max255}
    DAVIS (345 frames)   img/*.* + gt/*.*, same stem
    folders              two folders, same stem

Each image has one object: the pixels where any channel of the mask is not zero. Files without a
partner and missing folders are counted and reported.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.images import load_image
from ois_client.contract.masks import mask_of_coco

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_THIN = "thin_object_detection"
#: split -> (image folder, mask folder); if both are the same, it has x.jpg and x.png of each pair
_HQSEG44K = {
    "train": (
        ("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt"),
        (f"{_THIN}/ThinObject5K/images_train", f"{_THIN}/ThinObject5K/masks_train"),
        *((f"cascade_psp/{name}",) * 2 for name in
          ("fss_all", "DUTS-TR", "DUTS-TE", "ecssd", "MSRA_10K")),
    ),
    "val": (
        ("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
        (f"{_THIN}/ThinObject5K/images_test", f"{_THIN}/ThinObject5K/masks_test"),
        (f"{_THIN}/COIFT/images", f"{_THIN}/COIFT/masks"),
        (f"{_THIN}/HRSOD/images", f"{_THIN}/HRSOD/masks_max255"),
    ),
}  # fmt: skip


_HQSEG44K_PAIRS = {"train": 44_320, "val": 1_537}
_DAVIS_PAIRS = 345


class SkippedPair(InvalidInput):
    """A pair that cannot be used. reason: short, to count such pairs by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and its mask file. name: unique within the collection."""

    name: str
    image: Path
    #: A file, or a run-length mask as COCO has it (`size` and `counts`).
    mask: Path | dict[str, Any]
    #: Name of the image if it can have several objects; "" if this is its only one.
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """Pairs in a fixed order. skipped: reason -> number of files that were left out.

    expected: the number of pairs in the complete data set, 0 if unknown.
    """

    name: str
    pairs: tuple[Pair, ...]
    skipped: Counter[str] = field(default_factory=Counter)
    expected: int = 0

    @property
    def complete(self) -> bool:
        """Whether it has as many pairs as the published data set."""
        return not self.expected or len(self.pairs) == self.expected

    def report(self) -> str:
        """The number of pairs and of skipped files, as one line of text.

        A resumed run compares it with its data, so a change of the wording breaks resuming.
        """
        text = f"{self.name}: {len(self.pairs)} pairs"
        if not self.complete:
            text += f" where the published data set has {self.expected}"
        for reason, count in sorted(self.skipped.items()):
            text += f", {count} skipped ({reason})"
        return text


def hqseg44k(root: str | Path, split: str = "train", *, partial: bool = False) -> Collection:
    """The pairs of HQSeg44K `train` or `val`.

    partial: count missing folders instead of raising. Raises `InvalidInput` for an unknown split,
    for missing folders (all are listed), and if there are no pairs.
    """
    root = Path(root)
    if split not in _HQSEG44K:
        raise InvalidInput(f"got the split {split!r}; expected one of {', '.join(_HQSEG44K)}")
    pairs: list[Pair] = []
    skipped: Counter[str] = Counter()
    missing = []
    for images, masks in _HQSEG44K[split]:
        absent = sorted({part for part in (images, masks) if not (root / part).is_dir()})
        if absent:
            missing += absent
            skipped["missing folder"] += len(absent)
            continue
        found, lost = _match(root / images, root / masks, images, (".jpg",), (".png",))
        pairs += found
        skipped += lost
    if missing and not partial:
        raise InvalidInput(
            f"HQSeg44K {split} at {root} lacks {', '.join(missing)}; expected the folders of "
            "sam-hq's training data. Add them, or use what is there (`partial`)"
        )
    collection = Collection(f"HQSeg44K {split}", tuple(pairs), skipped, _HQSEG44K_PAIRS[split])
    return _checked(collection, root)


def davis(root: str | Path) -> Collection:
    """The 345 frames of DAVIS: `img/` and `gt/`, matched by stem.

    Raises `InvalidInput` if a folder is missing or there are no pairs.
    """
    root = Path(root)
    return _folder_pair(f"DAVIS at {root}", root / "img", root / "gt", _DAVIS_PAIRS)


def folders(images: str | Path, masks: str | Path) -> Collection:
    """Two folders whose files match by stem; a mask may also have the stem <stem>_mask.

    Raises `InvalidInput` if a folder is missing or there are no pairs.
    """
    return _folder_pair(f"{images} + {masks}", Path(images), Path(masks))


def _folder_pair(name: str, images: Path, masks: Path, expected: int = 0) -> Collection:
    absent = [str(path) for path in (images, masks) if not path.is_dir()]
    if absent:
        raise InvalidInput(
            f"{' and '.join(absent)} {'do' if len(absent) > 1 else 'does'} not exist; expected a "
            "folder of images and a folder of masks with the same file stems"
        )
    pairs, skipped = _match(images, masks, "", _PICTURES, _PICTURES)
    return _checked(Collection(name, tuple(pairs), skipped, expected), images)


def read_pair(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read image (H, W, 3) uint8 RGB in EXIF orientation and mask (H, W) bool, 1 = object.

    Raises `SkippedPair` if a file is not readable, the sizes differ, or the mask is empty.
    """
    try:
        image = load_image(pair.image).pixels()
    except InvalidImage as error:
        raise SkippedPair("unreadable image", str(error)) from error
    if isinstance(pair.mask, Path):
        mask = _mask_of_file(pair.mask)
    else:
        try:
            mask = mask_of_coco(pair.mask).astype(bool)
        except InvalidInput as error:
            raise SkippedPair("unreadable mask", f"{pair.name}: {error}") from error
    if mask.shape != image.shape[:2]:
        raise SkippedPair(
            "mask of another size",
            f"the mask of {pair.name} is {mask.shape[1]}x{mask.shape[0]} pixels, its image "
            f"{image.shape[1]}x{image.shape[0]}",
        )
    if not mask.any():
        raise SkippedPair("empty mask", f"the mask of {pair.name} marks no object")
    return image, mask


def _mask_of_file(path: Path) -> NDArray[np.bool_]:
    """(H, W): where any channel is not zero. Raises `SkippedPair` if it cannot be read."""
    try:
        with Image.open(path) as picture:
            if picture.mode in ("P", "1", "I", "F", "I;16"):
                # With a palette the indices mark the object, not the colours.
                values = np.asarray(picture)
            else:
                values = np.asarray(picture.convert("RGB" if "A" in picture.mode else picture.mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SkippedPair("unreadable mask", f"mask {path}: {error}") from error
    mask: NDArray[np.bool_] = (values if values.ndim == 2 else values.max(2)) > 0
    return mask


def _match(
    images: Path, masks: Path, prefix: str, image_kinds: tuple[str, ...],
    mask_kinds: tuple[str, ...],
) -> tuple[list[Pair], Counter[str]]:  # fmt: skip
    image_files, mask_files = _files(images, image_kinds), _files(masks, mask_kinds)
    found = {path.stem: path for path in image_files}
    targets = {path.stem.removesuffix("_mask"): path for path in mask_files}
    skipped: Counter[str] = Counter()
    skipped["image of the same name"] = len(image_files) - len(found)
    skipped["mask of the same name"] = len(mask_files) - len(targets)
    skipped["image without mask"] = len(set(found) - set(targets))
    skipped["mask without image"] = len(set(targets) - set(found))
    pairs = [
        Pair(f"{prefix}/{stem}" if prefix else stem, found[stem], targets[stem])
        for stem in sorted(set(found) & set(targets))
    ]
    return pairs, +skipped  # + removes zeros


def _files(folder: Path, kinds: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in kinds)


def _checked(collection: Collection, root: Path) -> Collection:
    if not collection.pairs:
        raise InvalidInput(
            f"{collection.name} has no image with a mask ({collection.report()}); expected "
            f"files with the same stem in {root}"
        )
    return collection
