"""Composite scenes: photographic cut-outs pasted on photographs, with exact masks and order.

A cut-out is a picture whose alpha channel is the mask of an object. `compose` pastes some on a
photograph and on each other, with shadows, blurred outlines and matched colours, so that the
pasted outline is not what a network learns to find. The mask of an object is exactly what later
objects leave visible of it.

The inverse depth (larger = nearer) is made up, because nobody knows the photograph's: each object
is nearer than all that it covers, and the photograph is nearer at its lower edge. Train on it with
a loss that ignores scale and shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ois_network.training.scenes.scene import Scene

#: A pixel belongs to an object where this much of it is the object's.
_HALF = 0.5
#: The most objects of a scene.
_MOST = 7
#: A cut-out is enlarged at most this much, so that it stays sharp.
_MOST_ENLARGED = 2.0
#: Inverse depth: the photograph at its upper and lower edge, and the range of the objects.
_FAR, _NEAR = 0.05, 0.3
_OBJECTS = (0.35, 1.0)


@dataclass(frozen=True, slots=True)
class CutOut:
    """A picture (H, W, 3) uint8 RGB and its alpha (H, W) uint8."""

    name: str
    picture: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


def is_photographic(cutout: CutOut) -> bool:
    """Whether a cut-out looks like a photograph and not like a drawing.

    Drawings have few colours, and most of their pixels are equal to their neighbour.
    """
    inside = cutout.alpha > 127
    both = inside[:, 1:] & inside[:, :-1]
    if not both.any():
        return False
    grey = cutout.picture.astype(np.float32).mean(2)
    flat = float((np.abs(np.diff(grey, axis=1))[both] < 0.5).mean())
    colours = len(np.unique(cutout.picture[inside] >> 3, axis=0))
    return flat < 0.35 and colours >= 100


def compose(
    photograph: NDArray[np.uint8], cutouts: Sequence[CutOut], rng: np.random.Generator
) -> Scene:
    """Paste some of `cutouts` on a photograph (h, w, 3) uint8 RGB, which keeps its size.

    Objects that end up hidden keep their number and have no pixel.
    """
    height, width = photograph.shape[:2]
    picture = photograph.astype(np.float32)
    instances = np.zeros((height, width), dtype=np.uint8)
    ramp = np.linspace(_FAR, _NEAR, height, dtype=np.float32)[:, None]
    depth = np.broadcast_to(ramp, (height, width)).copy()
    count = 1 + min(int(rng.geometric(0.3)) - 1, _MOST - 1)
    planes = np.sort(rng.uniform(*_OBJECTS, count)).astype(np.float32)
    light = rng.random() < 0.5, rng.uniform(-0.08, 0.08, 2), float(rng.uniform(0.2, 0.6))
    names: list[str] = []
    chosen: CutOut | None = None
    place: tuple[int, int] | None = None
    for number in range(1, count + 1):
        again = chosen is not None and rng.random() < 0.2  # the same thing at another depth
        chosen = chosen if again and chosen else cutouts[int(rng.integers(len(cutouts)))]
        names.append(chosen.name)
        colour, alpha = _prepared(chosen, min(height, width), rng)
        place = _place(alpha.shape, (height, width), place, rng)
        window, part = _overlap(alpha.shape, place, (height, width))
        if window is None or part is None:
            continue
        colour, alpha = colour[part], alpha[part]
        cast, offset, strength = light
        if cast:
            _shadow(picture, alpha, window, offset * min(height, width), strength)
        behind = picture[window]
        colour = _matched(colour, alpha, behind, float(rng.uniform(0, 0.4)))
        picture[window] = behind + alpha[..., None] * (colour - behind)
        solid = alpha >= _HALF
        instances[window][solid] = number
        depth[window][solid] = planes[number - 1]
    return Scene(_finished(picture, rng), depth, instances, tuple(names))


def _prepared(
    cutout: CutOut, side: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The cut-out at a random size, turned and with other light: colour 0..255, alpha 0..1."""
    wanted = side * float(np.exp(rng.uniform(np.log(0.12), np.log(1.1))))
    longest = max(cutout.alpha.shape)
    factor = min(wanted / longest, _MOST_ENLARGED)
    size = [max(2, round(edge * factor)) for edge in cutout.alpha.shape[::-1]]
    whole = Image.fromarray(np.dstack((cutout.picture, cutout.alpha)), "RGBA")
    whole = whole.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        whole = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.4:
        angle = float(rng.normal(0, 20))
        whole = whole.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    if rng.random() < 0.3:
        whole = whole.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
    pixels = np.asarray(whole, dtype=np.float32)
    gain, shift = rng.uniform(0.7, 1.25, 3) ** 0.5 * rng.uniform(0.75, 1.2), rng.uniform(-15, 15)
    colour = pixels[..., :3] * gain.astype(np.float32) + np.float32(shift)
    return np.clip(colour, 0, 255), pixels[..., 3] / 255


def _place(
    size: tuple[int, ...],
    canvas: tuple[int, int],
    before: tuple[int, int] | None,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Top left corner (y, x); a third are put near the one before, so that many overlap."""
    if before is not None and rng.random() < 0.35:
        spread = 0.5 * min(max(size), min(canvas))
        y, x = (int(edge + rng.normal(0, spread)) for edge in before)
    else:
        y, x = (int(rng.uniform(-0.3 * s, c - 0.7 * s)) for s, c in zip(size, canvas, strict=True))
    return y, x


def _overlap(
    size: tuple[int, ...], place: tuple[int, int], canvas: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | tuple[None, None]:
    """The part of the canvas under a picture at `place`, and the part of the picture on it."""
    window, part = [], []
    for length, start, whole in zip(size, place, canvas, strict=True):
        first, last = max(start, 0), min(start + length, whole)
        if first >= last:
            return None, None
        window.append(slice(first, last))
        part.append(slice(first - start, last - start))
    return (window[0], window[1]), (part[0], part[1])


def _shadow(
    picture: NDArray[np.float32],
    alpha: NDArray[np.float32],
    window: tuple[slice, slice],
    offset: NDArray[np.float64],
    strength: float,
) -> None:
    """Darken the picture around the object, before the object covers most of it."""
    reach = max(2, int(0.04 * max(alpha.shape)))
    pad = 3 * reach + int(np.abs(offset).max()) + 1
    grey = Image.fromarray((255 * np.pad(alpha, pad)).astype(np.uint8))
    soft = np.asarray(grey.filter(ImageFilter.BoxBlur(reach)), dtype=np.float32) / 255
    place = window[0].start - pad + int(offset[0]), window[1].start - pad + int(offset[1])
    under, part = _overlap(soft.shape, place, (picture.shape[0], picture.shape[1]))
    if under is not None and part is not None:
        picture[under] *= (1 - strength * soft[part])[..., None]


def _matched(
    colour: NDArray[np.float32],
    alpha: NDArray[np.float32],
    behind: NDArray[np.float32],
    share: float,
) -> NDArray[np.float32]:
    """The object with its mean colour moved by `share` towards that of what it covers."""
    weight = alpha[..., None]
    total = float(weight.sum())
    if total < 1:
        return colour
    own, other = (colour * weight).sum((0, 1)) / total, (behind * weight).sum((0, 1)) / total
    moved: NDArray[np.float32] = np.clip(colour + share * (other - own), 0, 255)
    return moved


def _finished(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise, blur and JPEG over everything, as a camera would add them."""
    if rng.random() < 0.4:
        noise = rng.standard_normal(picture.shape, dtype=np.float32)
        picture = picture + float(rng.uniform(1, 7)) * noise
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    if rng.random() < 0.5:
        stored = BytesIO()
        image.save(stored, "JPEG", quality=int(rng.integers(40, 96)))
        image = Image.open(stored)
    return np.array(image)
