"""Photographs with masks, and composites on photographs: the sources of the recipe `photo`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.images import load_image
from ois_network.config import NetworkConfig
from ois_network.training.config import Stage, TrainConfig
from ois_network.training.data.augment import crop_start, flip_and_colour
from ois_network.training.data.collections import Collection, Pair, SkippedPair, read_pair
from ois_network.training.data.reserved import refuse_reserved
from ois_network.training.data.sources import Sample, network_size, sample_of_scene
from ois_network.training.scenes.composite import CutOut, compose, is_photographic

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
#: Pictures are kept in memory at most this large, because they are cut and reduced anyway.
_LONGEST = 1280
#: The smallest share of a photograph's sides that a crop keeps.
_SMALLEST_CROP = 0.45


class _Remembered(Generic[Key, Value]):
    """A function that keeps its last `size` results. A copy in another process starts empty.

    (`lru_cache` alone cannot be sent to the loaders of a spawned process.)
    """

    def __init__(self, function: Callable[[Key], Value], size: int) -> None:
        self.given = function, size
        self._kept = lru_cache(maxsize=size)(function)

    def __call__(self, key: Key) -> Value:
        return self._kept(key)

    def __reduce__(self) -> tuple[type, tuple[Callable[[Key], Value], int]]:
        return type(self), self.given


class AnnotatedSource:
    """Photographs with many masks each, such as `ois label` writes.

    A sample is a random part of one photograph with several of its objects. Larger objects are
    chosen more often, because a labelled photograph has far more small masks.
    """

    def __init__(self, collection: Collection, network: NetworkConfig, config: TrainConfig) -> None:
        """Raises `InvalidInput` if a photograph is reserved for evaluation."""
        groups: dict[Path, list[Pair]] = defaultdict(list)
        for pair in collection.pairs:
            groups[pair.image].append(pair)
        refuse_reserved(groups)
        self.collection, self.patch, self.config = collection, network.patch, config
        self.groups = list(groups.values())
        self._read = _Remembered(self._read_group, len(self.groups))

    def __len__(self) -> int:
        return len(self.groups)

    def _read_group(
        self, number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
        """The picture, its masks as packed bits (M, ...), and how often to choose each (M)."""
        picture: NDArray[np.uint8] | None = None
        masks = []
        for pair in self.groups[number]:
            try:
                image, mask = read_pair(pair)
            except SkippedPair:
                continue
            if picture is None:
                picture = _reduced(image)
            masks.append(_reduced_mask(mask, picture.shape[:2]))
        if picture is None:
            raise InvalidInput(
                f"no mask of {self.groups[number][0].image} can be used; check the files of "
                f"{self.collection.name}"
            )
        stack = np.stack(masks)
        roots = np.sqrt(stack.mean((1, 2)))
        return picture, np.packbits(stack, axis=2), roots / roots.sum()

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        """As `Source.sample`. Raises `InvalidInput` if no mask of a photograph can be used."""
        number = index % len(self.groups)
        picture, packed, weights = self._read(number)
        height, width = picture.shape[:2]
        masks = np.unpackbits(packed, axis=2, count=width).astype(bool)
        size = shape or network_size(width, height, stage.longest, self.patch)
        first = int(rng.choice(len(masks), p=weights))
        box = _crop(picture.shape, size, rng, masks[first])
        cut = np.array(
            Image.fromarray(picture[box]).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8
        )
        inside = [_reduced_mask(mask[box], (size[1], size[0])) for mask in masks]
        smallest = self.config.smallest_target
        kept = [k for k, mask in enumerate(inside) if smallest < mask.mean() < 0.9]
        if not kept:
            kept = [first]
            if not inside[first].any():
                return self.sample(index + 1, shape, stage, rng)
        share = weights[kept] / weights[kept].sum()
        chosen = rng.choice(kept, size=stage.objects, p=share, replace=len(kept) < stage.objects)
        if first in kept:
            chosen[0] = first
        image, turned = flip_and_colour(cut, [inside[k] for k in chosen], rng, self.config.augment)
        others = [np.any([m for m in turned if m is not mask] or [mask], axis=0) & ~mask
                  for mask in turned]  # fmt: skip
        name = self.groups[number][0].image.name
        return Sample(image, None, turned, others, name)


class CompositeSource:
    """Composites of cut-outs on photographs; endless. See `scenes/composite.py`."""

    def __init__(
        self, cutouts: Path, photographs: Path, network: NetworkConfig, config: TrainConfig
    ) -> None:
        """cutouts: a folder of pictures with alpha; drawings are left out. Both are searched with
        all folders below.

        Raises `InvalidInput` if a folder has nothing of use, or a reserved picture.
        """
        files = _pictures(photographs)
        refuse_reserved(files)
        self.files, self.patch, self.config = files, network.patch, config
        self.cutouts = [one for path in _pictures(cutouts) if (one := read_cutout(path))]
        if not self.cutouts:
            raise InvalidInput(
                f"{cutouts} has no photographic cut-out; expected pictures whose alpha channel is "
                "the mask of an object, such as those of Debian's tuxpaint-stamps-default"
            )
        self._read = _Remembered(_read_photograph, 256)

    def __len__(self) -> int:
        return 0

    def sample(
        self, index: int, shape: tuple[int, int] | None, stage: Stage, rng: np.random.Generator
    ) -> Sample:
        photograph = self._read(self.files[int(rng.integers(len(self.files)))])
        size = shape or network_size(
            photograph.shape[1], photograph.shape[0], stage.longest, self.patch
        )
        while True:
            box = _crop(photograph.shape, size, rng)
            back = Image.fromarray(photograph[box]).resize(size, Image.Resampling.BICUBIC)
            ground, _ = flip_and_colour(np.array(back), [], rng, self.config.augment)
            scene = compose(ground, self.cutouts, rng)
            targets = scene.targets(self.config.smallest_target)
            if targets:
                break
        return sample_of_scene(scene, targets, stage.objects, rng, f"composite {index}")


def read_cutout(path: Path) -> CutOut | None:
    """The cut-out in a file, cropped to its object; None if it is a drawing or has no outline."""
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
                return None
            pixels = np.asarray(picture.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    inside = pixels[..., 3] > 127
    if inside.sum() < 2000 or inside.mean() > 0.97:
        return None
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    part = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cutout = CutOut(path.stem, np.ascontiguousarray(part[..., :3]), part[..., 3].copy())
    return cutout if is_photographic(cutout) else None


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder; expected one with pictures")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _PICTURES and p.is_file())
    if not files:
        raise InvalidInput(f"{folder} has no picture (.jpg, .png or .webp)")
    return files


def _read_photograph(path: Path) -> NDArray[np.uint8]:
    try:
        return _reduced(load_image(path).pixels())
    except InvalidImage as error:
        raise InvalidInput(f"cannot use the photograph {path}: {error}") from error


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(image)
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return np.array(picture)


def _reduced_mask(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask at shape (H, W): where most of a pixel is inside."""
    if mask.shape == tuple(shape):
        return np.ascontiguousarray(mask)
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized) > 127


def _crop(
    shape: tuple[int, ...],
    size: tuple[int, int],
    rng: np.random.Generator,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[slice, slice]:
    """A random box of a picture (H, W), with the aspect ratio of `size` (width, height).

    Half of the boxes are as large as the picture allows. mask: the box holds a pixel of it.
    """
    height, width = shape[:2]
    aspect = size[0] / size[1]
    wide, high = min(width, height * aspect), min(height, width / aspect)
    scale = 1.0 if rng.random() < 0.5 else float(rng.uniform(_SMALLEST_CROP, 1.0))
    sides = max(1, round(high * scale)), max(1, round(wide * scale))
    if mask is None:
        pixel = int(rng.integers(height * width))
    else:
        flat = np.flatnonzero(mask)
        pixel = int(flat[rng.integers(flat.size)])
    box = []
    for position, side, whole in zip(divmod(pixel, width), sides, (height, width), strict=True):
        start = crop_start(position, side, whole, rng)
        box.append(slice(start, start + side))
    return box[0], box[1]
