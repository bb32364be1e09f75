"""Procedural scenes: layered objects with exact masks and exact depth.

`render(seed, index)` always draws the same scene. Scenes contain what matters for order-aware
segmentation: objects in front of each other, similar surfaces at different depths, different
surfaces at the same depth, holes, bars and fences, slanted planes, and a background whose depth
changes. Depth is inverse depth, larger = nearer, as in Depth-Anything-V2.

A z-buffer decides visibility, so a mask is exactly the visible part of its object.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ois_network.training.scenes.shapes import Shape, draw_shape
from ois_network.training.scenes.textures import Image32, Texture

#: Seeds of disjoint sets of scenes: none that is evaluated is trained on.
TRAIN_SEED = 1
VALIDATION_SEED = 1_000_033  # for decisions during training and in ablations
HELD_OUT_SEED = 1_000_003  # for reported results

#: An object that covers less than this share of the image is not a target.
SMALLEST_TARGET = 0.005

_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3)


class SceneKind(StrEnum):
    """Which scenes to draw. The values are also the names of data sets."""

    MIXED = "scenes"
    #: Objects of one kind and one surface that overlap at different depths: depth tells them apart.
    LOOKALIKES = "lookalikes"
    #: Every object has a shape and a surface of its own: colours and edges tell them apart.
    DISTINCT = "distinct"

    @property
    def label(self) -> str:
        """For readers."""
        return "procedural scenes" + ("" if self is SceneKind.MIXED else f" ({self})")


@dataclass(frozen=True, slots=True)
class _Mix:
    """Probabilities that a further object has the depth of another one, lies near it, has its
    surface, and its shape."""

    same_depth: float
    near: float
    same_surface: float
    same_shape: float


_MIXES = {
    SceneKind.MIXED: _Mix(same_depth=0.2, near=0.35, same_surface=0.3, same_shape=0.0),
    SceneKind.LOOKALIKES: _Mix(same_depth=0.0, near=1.0, same_surface=1.0, same_shape=1.0),
    SceneKind.DISTINCT: _Mix(same_depth=0.2, near=0.35, same_surface=0.0, same_shape=0.0),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene.

    image: (H, W, 3) uint8 RGB. depth: (H, W) float32 inverse depth, larger = nearer. instances:
    (H, W) uint8, 0 = background, k = the visible part of object k. kinds: names of the shapes of
    objects 1, 2, ...
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instances: NDArray[np.uint8]
    kinds: tuple[str, ...]

    def targets(self, smallest: float = SMALLEST_TARGET) -> list[int]:
        """The objects whose visible part covers at least `smallest` of the image."""
        counts = np.bincount(self.instances.ravel(), minlength=len(self.kinds) + 1)
        return [k for k in range(1, counts.size) if counts[k] >= smallest * self.instances.size]


@dataclass(frozen=True, slots=True)
class _Object:
    kind: str
    shape: Shape
    centre: tuple[float, float]  # as a share of width and height
    radius: float  # as a share of the longest side
    turn: float
    inverse_depth: float
    slant: tuple[float, float]
    textures: tuple[Texture, ...]
    split: float  # where the second texture begins, in units of the radius


@dataclass(frozen=True, slots=True)
class _Background:
    horizon: float | None  # as a share of the height; None: one slanted plane
    far: float
    near: float
    tilt: float
    textures: tuple[Texture, Texture]


def scene_size(seed: int, index: int) -> tuple[int, int]:
    """The own size of scene `index`: (width, height) in pixels."""
    rng = np.random.default_rng([seed, index, 1])
    longest = int(rng.integers(384, 641))
    aspect = _ASPECTS[int(rng.integers(len(_ASPECTS)))]
    if aspect >= 1:
        return longest, round(longest / aspect)
    return round(longest * aspect), longest


def render(
    seed: int,
    index: int,
    size: tuple[int, int] | None = None,
    kind: SceneKind = SceneKind.MIXED,
) -> Scene:
    """Draw scene `index` of a seed and a kind, at `size` (width, height) or at its own size."""
    width, height = size or scene_size(seed, index)
    rng = np.random.default_rng([seed, index])
    background = _draw_background(rng)
    objects = _draw_objects(rng, background, _MIXES[kind])
    light = rng.uniform(-0.3, 0.3, 2)
    haze = float(rng.uniform(0, 0.55)) * (rng.random() < 0.7)
    haze_colour = rng.uniform(90, 240, 3).astype(np.float32)
    shadow = float(rng.uniform(0.2, 0.6)) * (rng.random() < 0.6)
    blur, noise = rng.uniform(0.3, 1.0), rng.uniform(0, 6)

    longest = max(width, height)
    x = (np.arange(width, dtype=np.float32)[None] + 0.5) / longest
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / longest
    picture, depth = _paint_background(background, x, y)
    instances = np.zeros((height, width), dtype=np.uint8)
    order = sorted(range(len(objects)), key=lambda k: objects[k].inverse_depth)
    for k in order:
        _paint_object(objects[k], k + 1, x, y, picture, depth, instances, light, shadow)
    if haze:
        fade = (haze * (1 - np.clip(depth, 0, 1)))[..., None]
        picture += fade * (haze_colour - picture)
    if noise > 1:
        picture += (noise * rng.standard_normal(picture.shape[:2], dtype=np.float32))[..., None]
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(blur * longest / 448))
    return Scene(np.asarray(image), depth, instances, tuple(item.kind for item in objects))


def _draw_background(rng: np.random.Generator) -> _Background:
    horizon = float(rng.uniform(0.1, 0.5)) if rng.random() < 0.6 else None
    near = rng.uniform(0.7, 0.95) if horizon is not None else rng.uniform(0.1, 0.35)
    return _Background(
        horizon,
        far=float(rng.uniform(0.02, 0.08)),
        near=float(near),
        tilt=float(rng.uniform(0, 2 * np.pi)),
        textures=(Texture.draw(rng), Texture.draw(rng)),
    )


def _draw_objects(rng: np.random.Generator, background: _Background, mix: _Mix) -> list[_Object]:
    objects: list[_Object] = []
    for _ in range(int(rng.integers(3, 9))):
        same_shape = mix.same_shape and objects and rng.random() < mix.same_shape
        kind, shape, thin = draw_shape(rng, objects[0].kind if same_shape else "")
        inverse_depth = float(rng.uniform(0.3, 1.0))
        if objects and rng.random() < mix.same_depth:  # another surface at the same depth
            inverse_depth = objects[int(rng.integers(len(objects)))].inverse_depth
        # Nearer objects look larger, with a spread, so that size does not determine depth.
        radius = (0.06 + 0.16 * inverse_depth) * float(np.exp(rng.normal(0, 0.35)))
        radius = float(np.clip(radius * (1.35 if thin else 1.0), 0.06, 0.34))
        turn = float(rng.uniform(0, 2 * np.pi)) if rng.random() < 0.6 else 0.0
        centre_x, centre_y = (float(v) for v in rng.uniform(0.05, 0.95, 2))
        if background.horizon is not None and rng.random() < 0.75:
            # It stands on the ground: its foot is where the ground has the same depth.
            foot = background.horizon + (1 - background.horizon) * (
                (inverse_depth - background.far) / (background.near - background.far)
            )
            centre_y = float(np.clip(foot - radius, 0.05, 1.0))
        if objects and rng.random() < mix.near:  # near another object, so that many overlap
            other = objects[int(rng.integers(len(objects)))]
            centre_x = float(np.clip(other.centre[0] + rng.normal(0, 0.13), 0.03, 0.97))
            if background.horizon is None:
                centre_y = float(np.clip(other.centre[1] + rng.normal(0, 0.13), 0.03, 0.97))
        if objects and rng.random() < mix.same_surface:  # a similar surface at another depth
            other = objects[int(rng.integers(len(objects)))]
            textures: tuple[Texture, ...] = tuple(t.lookalike(rng) for t in other.textures)
        else:
            textures = tuple(Texture.draw(rng) for _ in range(1 + (rng.random() < 0.2)))
        slanted = rng.random() < 0.5
        slant = rng.uniform(-0.4, 0.4, 2) * slanted
        objects.append(
            _Object(
                kind,
                shape,
                (centre_x, centre_y),
                radius,
                turn,
                inverse_depth,
                (float(slant[0]), float(slant[1])),
                textures,
                split=float(rng.uniform(-0.4, 0.4)),
            )
        )
    return objects


def _paint_background(
    background: _Background, x: Image32, y: Image32
) -> tuple[Image32, NDArray[np.float32]]:
    """The background's picture (h, w, 3) and inverse depth (h, w)."""
    far, near = background.far, background.near
    if background.horizon is None:
        along = np.cos(background.tilt) * x + np.sin(background.tilt) * y
        low, high = along.min(), along.max()
        depth = far + (near - far) * (along - low) / (high - low)
        return background.textures[0].paint(x, y), depth.astype(np.float32)
    # The inverse depth of a ground plane is linear in the image row.
    rows = (y - y[0, 0]) / max(float(np.ptp(y)), 1e-6)
    below = (rows - background.horizon) / (1 - background.horizon)
    depth = far + (near - far) * np.clip(below, 0, None) + 0 * x
    picture = background.textures[0].paint(x, y)
    first = int(np.searchsorted(rows[:, 0], background.horizon))
    picture[first:] = background.textures[1].paint(x, y[first:])
    return picture, depth.astype(np.float32)


def _paint_object(
    item: _Object,
    number: int,
    x: Image32,
    y: Image32,
    picture: Image32,
    depth: NDArray[np.float32],
    instances: NDArray[np.uint8],
    light: NDArray[np.float64],
    shadow: float,
) -> None:
    height, width = depth.shape
    longest = max(height, width)
    radius = item.radius * longest
    centre = np.array([item.centre[0] * width, item.centre[1] * height])
    cos, sin = np.cos(item.turn), np.sin(item.turn)
    turn = np.array([[cos, sin], [-sin, cos]]) * radius
    polygons = [(points @ turn + centre, value) for points, value in item.shape]
    corners = np.concatenate([points for points, _ in polygons])
    left, top = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, None)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, (width, height))
    if left >= right or top >= bottom:
        return
    canvas = Image.new("L", (int(right - left), int(bottom - top)), 0)
    pen = ImageDraw.Draw(canvas)
    for points, value in polygons:
        pen.polygon([(px - left, py - top) for px, py in points], fill=value)
    inside = np.asarray(canvas) > 0
    box = slice(top, bottom), slice(left, right)
    xs, ys = x[:, left:right], y[top:bottom]
    u = (xs - centre[0] / longest).astype(np.float32)
    v = (ys - centre[1] / longest).astype(np.float32)
    plane = (item.inverse_depth + item.slant[0] * u + item.slant[1] * v).astype(np.float32)
    visible = inside & (plane >= depth[box])
    if not visible.any():
        return
    if shadow:
        _cast_shadow(picture, canvas, (int(left), int(top)), 0.12 * radius, shadow)
    surface = item.textures[0].paint(xs, ys)
    if len(item.textures) > 1:
        second = (cos * v - sin * u) > item.split * item.radius
        surface = np.where(second[..., None], item.textures[1].paint(xs, ys), surface)
    shade = 1 + (light[0] * u + light[1] * v).astype(np.float32) / item.radius
    surface *= np.clip(shade, 0.4, 1.6)[..., None]
    picture[box][visible] = surface[visible]
    depth[box][visible] = plane[visible]
    instances[box][visible] = number


def _cast_shadow(
    picture: Image32, canvas: Image.Image, corner: tuple[int, int], reach: float, strength: float
) -> None:
    """Darken the picture behind the object, slightly below and to the right."""
    pad = int(2 * reach) + 1
    soft = Image.new("L", (canvas.width + 2 * pad, canvas.height + 2 * pad), 0)
    soft.paste(canvas.point(lambda value: 255 * value), (pad, pad))
    dark = np.asarray(soft.filter(ImageFilter.BoxBlur(reach)), dtype=np.float32) / 255
    left, top = corner[0] - pad + int(reach * 0.6), corner[1] - pad + int(reach)
    right = min(left + dark.shape[1], picture.shape[1])
    bottom = min(top + dark.shape[0], picture.shape[0])
    skip_x, skip_y = max(-left, 0), max(-top, 0)
    left, top = left + skip_x, top + skip_y
    if left >= right or top >= bottom:
        return
    part = dark[skip_y : skip_y + bottom - top, skip_x : skip_x + right - left]
    picture[top:bottom, left:right] *= (1 - strength * part)[..., None]
