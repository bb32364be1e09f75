"""Surfaces of procedural objects: a pattern of two colours, plus noise."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Image32 = NDArray[np.float32]

KINDS = ("flat", "gradient", "stripes", "checks", "cloud", "dots")
_WEIGHTS = np.array([0.25, 0.2, 0.17, 0.1, 0.18, 0.1])


@dataclass(frozen=True, slots=True)
class Texture:
    """The look of a surface, independent of its size. Colours are RGB in 0..255."""

    kind: str
    first: tuple[float, float, float]
    second: tuple[float, float, float]
    angle: float
    frequency: float  # cycles over the image's longest side
    grain: float  # standard deviation of the pixel noise
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Texture:
        """A random texture."""
        first = _colour(rng)
        second = _near(first, rng, 45.0) if rng.random() < 0.6 else _colour(rng)
        return cls(
            kind=KINDS[int(rng.choice(len(KINDS), p=_WEIGHTS))],
            first=first,
            second=second,
            angle=float(rng.uniform(0, np.pi)),
            frequency=float(np.exp(rng.uniform(np.log(5.0), np.log(30.0)))),
            grain=float(rng.uniform(0, 9)),
            seed=int(rng.integers(2**31)),
        )

    def lookalike(self, rng: np.random.Generator) -> Texture:
        """A texture with slightly different colours, which only depth and edges distinguish."""
        return Texture(
            self.kind,
            _near(self.first, rng, 10.0),
            _near(self.second, rng, 10.0),
            self.angle,
            self.frequency,
            self.grain,
            int(rng.integers(2**31)),
        )

    def paint(self, x: Image32, y: Image32) -> Image32:
        """The picture (h, w, 3) at x (1, w) and y (h, 1), in units of the image's longest side."""
        rng = np.random.default_rng(self.seed)
        blend = self._pattern(x, y, rng)[..., None]
        first = np.array(self.first, dtype=np.float32)
        picture = first + blend * (np.array(self.second, dtype=np.float32) - first)
        if self.grain:
            noise = rng.standard_normal(picture.shape[:2], dtype=np.float32)
            picture += (self.grain * noise)[..., None]
        return picture

    def _pattern(self, x: Image32, y: Image32, rng: np.random.Generator) -> Image32:
        """The share of the second colour, 0..1, (h, w)."""
        shape = (y.shape[0], x.shape[1])
        if self.kind == "flat":
            return np.zeros(shape, dtype=np.float32)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along = cos * x + sin * y
        if self.kind == "gradient":
            low, high = along.min(), along.max()
            return (along - low) / max(high - low, 1e-6)
        step = np.float32(self.frequency)
        if self.kind == "stripes":
            return ((along * step) % 1.0 < 0.5).astype(np.float32)
        across = cos * y - sin * x
        if self.kind == "checks":
            return ((np.floor(along * step) + np.floor(across * step)) % 2).astype(np.float32)
        if self.kind == "dots":
            dx, dy = (along * step) % 1.0 - 0.5, (across * step) % 1.0 - 0.5
            return (dx * dx + dy * dy < 0.09).astype(np.float32)
        cells = np.clip((np.array([np.ptp(x), np.ptp(y)]) * step).astype(int) + 2, 2, 48)
        coarse = Image.fromarray(rng.random((cells[1], cells[0]), dtype=np.float32))
        return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    hue, saturation, value = rng.random(), rng.beta(1.6, 1.6), rng.uniform(0.15, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def _near(
    colour: tuple[float, float, float], rng: np.random.Generator, spread: float
) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.array(colour) + rng.normal(0, spread, 3), 0, 255)
    return float(red), float(green), float(blue)
