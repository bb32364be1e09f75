"""The robot user on procedural scenes: a quick measurement of quality during training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.coverage import coverage_of_mask
from ois_network.network import OISNetwork
from ois_network.training.clicks.robot import (
    clicks_to_reach,
    intersection_over_union,
    next_robot_click,
)
from ois_network.training.forward import click_batch, encode_batch
from ois_network.training.scenes.scene import (
    HELD_OUT_SEED,
    VALIDATION_SEED,
    Scene,
    SceneKind,
    render,
)

#: All clicks on an object, its previous mask (None before the first) -> its mask, (H, W) bool.
Predict = Callable[[list[Click], NDArray[np.bool_] | None], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over objects; `curve[k]` is the mean IoU after k + 1 clicks."""

    objects: int
    miou1: float
    miou5: float
    noc90: float
    curve: tuple[float, ...]

    @classmethod
    def of(cls, ious: list[list[float]]) -> Quality:
        """ious: one list per object, IoU after each click."""
        table = np.array(ious)
        curve = tuple(round(float(value), 4) for value in table.mean(0))
        most = table.shape[1]
        noc = float(np.mean([clicks_to_reach(row, 0.9, most) for row in ious]))
        return cls(len(ious), curve[0], curve[min(4, most - 1)], round(noc, 3), curve)


def held_out(
    count: int, seed: int = HELD_OUT_SEED, kind: SceneKind = SceneKind.MIXED
) -> Iterator[tuple[Scene, int]]:
    """The first `count` scenes of a seed and a kind that have a target, each with one target.

    The scenes have their own size and are the same on every call. To choose a recipe or a default
    by its score, use `VALIDATION_SEED`: the scenes of the default seed must stay unseen.
    """
    indices = itertools.count()
    drawn = (scene_with_target(index, seed, kind) for index in indices)
    return itertools.islice((scene for scene in drawn if scene is not None), count)


def scene_with_target(
    index: int, seed: int = HELD_OUT_SEED, kind: SceneKind = SceneKind.MIXED
) -> tuple[Scene, int] | None:
    """Scene `index` of a seed and the number of its target object; None if it has no target."""
    scene = render(seed, index, kind=kind)
    targets = scene.targets()
    if not targets:
        return None
    rng = np.random.default_rng([seed, index, 2])
    return scene, targets[int(rng.integers(len(targets)))]


def robot_session(target: NDArray[np.bool_], predict: Predict, most: int) -> list[float]:
    """IoU after each of `most` robot clicks on the object target (H, W) bool."""
    clicks: list[Click] = []
    mask = np.zeros(target.shape, dtype=bool)
    ious = []
    for number in range(most):
        clicks.append(next_robot_click(target, mask, clicks))
        mask = predict(clicks, mask if number else None)
        ious.append(intersection_over_union(target, mask))
    return ious


def torch_predictor(
    network: OISNetwork, image: NDArray[np.uint8], longest: int, *, bf16: bool = False
) -> Predict:
    """Encode image (H, W, 3) uint8 RGB once, at `longest` network pixels, to predict its masks.

    A mask is logits > 0 at the size of the image. bf16: run under autocast.
    """
    height, width = image.shape[:2]
    config = network.config
    geometry = config.fit(width, height, longest)
    size = geometry.network_width, geometry.network_height
    resized = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    rows, columns = geometry.position_matrices(config.position_table)
    device = network.project.weight.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    with torch.no_grad(), autocast:
        encoded = encode_batch(network, tensor(resized).unsqueeze(0), tensor(rows), tensor(columns))

    def predict(clicks: list[Click], previous: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        points, labels = fill_slots([clicks], geometry)
        empty = np.zeros(geometry.coverage_shape, dtype=np.uint8)
        coverage = empty if previous is None else coverage_of_mask(previous, geometry)
        with torch.no_grad(), autocast:
            logits = click_batch(
                network,
                encoded,
                torch.zeros(1, dtype=torch.int64, device=device),
                Prompts(
                    tensor(points),
                    tensor(labels),
                    tensor(coverage).unsqueeze(0),
                    torch.tensor([previous is not None], device=device),
                ),
            )
        resized_back = torch.nn.functional.interpolate(
            logits.float().unsqueeze(1), size=(height, width), mode="bilinear", align_corners=False
        )
        return (resized_back[0, 0] > 0).cpu().numpy()

    return predict


def evaluate(
    network: OISNetwork,
    count: int,
    *,
    longest: int,
    clicks: int = 5,
    bf16: bool = False,
) -> Quality:
    """The robot user with `clicks` clicks on `count` objects of the validation scenes."""
    return Quality.of(robot_ious(network, count, longest=longest, clicks=clicks, bf16=bf16))


def robot_ious(
    network: OISNetwork,
    count: int,
    *,
    longest: int,
    clicks: int,
    bf16: bool,
    kind: SceneKind = SceneKind.MIXED,
) -> list[list[float]]:
    """IoU after each click, one list per object, on `count` validation scenes."""
    ious = []
    for scene, target in held_out(count, VALIDATION_SEED, kind):
        predict = torch_predictor(network, scene.image, longest, bf16=bf16)
        ious.append(robot_session(scene.instances == target, predict, clicks))
    return ious
