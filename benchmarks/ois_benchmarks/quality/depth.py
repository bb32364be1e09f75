"""Whether a network's depth has the right order: `ois bench depth`.

Order maps compare depths, so only their order counts. The score is the share of random pairs of
pixels that the network orders as the truth does; 0.5 is chance, 1 is perfect. Pairs whose true
inverse depths differ by less than `LEAST` of the picture's range are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import ImageSource
from ois_client.sessions.client import Client

#: Smaller differences of the true inverse depth, as shares of its range, are not compared.
LEAST = 0.03
PAIRS = 100_000


@dataclass(frozen=True, slots=True)
class DepthScore:
    """agreement: share of pairs in the right order. pairs: how many were compared."""

    name: str
    agreement: float
    pairs: int


def score(
    client: Client, name: str, image: ImageSource, inverse_depth: NDArray[np.floating[Any]]
) -> DepthScore:
    """Compare the network's depth with the truth.

    inverse_depth: (H, W), larger = nearer, such as a disparity; NaN, infinite and zero pixels are
    unknown. Raises `InvalidInput` if fewer than two pixels are known, and what `Client` raises.
    """
    truth = np.asarray(inverse_depth, dtype=np.float32)
    height, width = truth.shape
    session = client.open(image)
    session.click(width // 2, height // 2, want_depth=True)
    reply = session.last_reply
    if reply is None or reply.depth is None:
        raise InvalidInput(f"{name}: the server did not return a depth")
    found = Image.fromarray(reply.depth).resize((width, height), Image.Resampling.BILINEAR)
    near = 1 - np.asarray(found, dtype=np.float32)
    return DepthScore(name, *agreement(near, truth))


def agreement(near: NDArray[np.float32], truth: NDArray[np.float32]) -> tuple[float, int]:
    """The share of pixel pairs in the same order in both (H, W) maps, and how many were compared.

    Raises `InvalidInput` if the truth has no two pixels that differ.
    """
    known = np.flatnonzero(np.isfinite(truth) & (truth > 0))
    if known.size < 2:
        raise InvalidInput("the true depth has fewer than two known pixels")
    rng = np.random.default_rng(0)
    first, second = (known[rng.integers(known.size, size=PAIRS)] for _ in range(2))
    flat, wanted = near.ravel(), truth.ravel()
    apart = wanted[first] - wanted[second]
    low, high = np.percentile(wanted[known], (1, 99))
    told = np.abs(apart) > LEAST * max(float(high - low), 1e-9)
    if not told.any():
        raise InvalidInput("the true depth is the same everywhere")
    same = np.sign(flat[first] - flat[second])[told] == np.sign(apart)[told]
    return float(same.mean()), int(told.sum())


def read_inverse_depth(path: Path) -> NDArray[np.float32]:
    """(H, W), from .npy, the first array of .npz, or a picture. Raises `InvalidInput`."""
    try:
        if path.suffix in (".npy", ".npz"):
            loaded = np.load(path)
            array = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
        else:
            with Image.open(path) as picture:
                array = np.asarray(picture)
    except (OSError, ValueError, IndexError) as error:
        raise InvalidInput(f"cannot read the depth {path}: {error}") from error
    if array.ndim == 3:
        array = array[..., 0]
    if array.ndim != 2:
        raise InvalidInput(f"the depth {path} has the shape {array.shape}; expected (H, W)")
    return array.astype(np.float32)


def scenes(client: Client, count: int) -> Iterator[DepthScore]:
    """The first `count` held-out procedural scenes, whose depth is exact."""
    from ois_network.training.scenes.scene import HELD_OUT_SEED, render

    for index in range(count):
        scene = render(HELD_OUT_SEED, index)
        yield score(client, f"scene {index}", scene.image, scene.depth)
