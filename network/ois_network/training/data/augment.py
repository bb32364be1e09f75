"""Augmentation of an image and its mask: SegNext's for HQSeg44K, with Pillow and NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_network.training.config import AugmentConfig

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def augment(
    image: Picture, mask: Mask, rng: np.random.Generator, config: AugmentConfig
) -> tuple[Picture, Mask]:
    """Augment image (H, W, 3) and mask (H, W); the size may change.

    The mask is resampled with nearest neighbour. An object that would leave the image is not moved.
    """
    if not config.on:
        return image, mask
    moved_image, moved_mask = _place(image, mask, rng, config)
    if moved_mask.any():
        image, mask = moved_image, moved_mask
    return _colour(image, rng, config), mask


def flip_and_colour(
    image: Picture, masks: list[Mask], rng: np.random.Generator, config: AugmentConfig
) -> tuple[Picture, list[Mask]]:
    """Mirror image (H, W, 3) and masks (H, W) in half of the cases, and change the colours."""
    if not config.on:
        return image, masks
    if config.flip and rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
        masks = [np.ascontiguousarray(mask[:, ::-1]) for mask in masks]
    return _colour(image, rng, config), masks


def _place(
    image: Picture, mask: Mask, rng: np.random.Generator, config: AugmentConfig
) -> tuple[Picture, Mask]:
    factor = rng.uniform(*config.scale)
    if factor != 1:
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        mask = _resize_mask(mask, size)
    if config.flip and rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if config.rotate90:
        turns = int(rng.integers(4))
        image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    if rng.random() < config.shift_rotate_share and (config.shift or config.rotate):
        angle = np.deg2rad(rng.uniform(-config.rotate, config.rotate))
        shift = rng.uniform(-config.shift, config.shift, 2)
        height, width = mask.shape
        cos, sin = np.cos(angle), np.sin(angle)
        cx, cy = (width - 1) / 2, (height - 1) / 2
        dx, dy = cx + shift[0] * width, cy + shift[1] * height
        matrix = (cos, sin, cx - cos * dx - sin * dy, -sin, cos, cy + sin * dx - cos * dy)
        form = Image.Transform.AFFINE
        image = np.asarray(
            Image.fromarray(np.ascontiguousarray(image)).transform(
                (width, height), form, matrix, Image.Resampling.BILINEAR
            )
        )
        grey = Image.fromarray(mask.astype(np.uint8))
        mask = np.asarray(grey.transform((width, height), form, matrix)) > 0
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _colour(image: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    picture = image.astype(np.float32)
    if rng.random() < config.brightness_contrast_share:
        picture *= 1 + rng.uniform(*config.contrast)
        picture += 255 * rng.uniform(-config.brightness, config.brightness)
    if rng.random() < config.rgb_shift_share:
        picture += rng.uniform(-config.rgb_shift, config.rgb_shift, 3).astype(np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def crop_start(position: int, length: int, whole: int, rng: np.random.Generator) -> int:
    """Where a crop of `length` of `whole` pixels starts, so that it holds the pixel `position`."""
    low, high = max(0, position - length + 1), min(position, whole - length)
    return int(rng.integers(low, high + 1))


def fit_to(
    image: Picture, mask: Mask, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Picture, Mask]:
    """Crop to the aspect ratio of `shape` (width, height), with part of the object, and resize."""
    height, width = mask.shape
    aspect = shape[0] / shape[1]
    cut_width, cut_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    cut_width, cut_height = max(cut_width, 1), max(cut_height, 1)
    flat = np.flatnonzero(mask)
    row, column = divmod(int(flat[rng.integers(flat.size)]), width)
    left = crop_start(column, cut_width, width, rng)
    top = crop_start(row, cut_height, height, rng)
    box = slice(top, top + cut_height), slice(left, left + cut_width)
    picture = Image.fromarray(np.ascontiguousarray(image[box]))
    resized = np.array(picture.resize(shape, Image.Resampling.BICUBIC))
    return resized, _resize_mask(mask[box], shape)


def squash_to(image: Picture, mask: Mask, shape: tuple[int, int]) -> tuple[Picture, Mask]:
    """Resize to `shape` (width, height). The mask becomes empty if its object is too small."""
    resized = np.array(Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC))
    return resized, _resize_mask(mask, shape)


def _resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    picture = Image.fromarray(np.ascontiguousarray(mask).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 0
