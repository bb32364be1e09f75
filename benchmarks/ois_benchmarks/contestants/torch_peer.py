"""Shared code of adapters for peers in PyTorch: setup, weights, identity, counting."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ois_benchmarks.contestants.base import Image, Mask, NotHere, Place
from ois_benchmarks.contestants.code import PeerCode
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click
from ois_client.contract.errors import CheckpointError
from ois_network.flops import count


def prepare_torch(place: Place) -> torch.device:
    """Set threads, disable gradients and fix the seed of random weights. Returns the device.

    Raises `NotHere` if the device is a GPU and PyTorch finds none.
    """
    torch.set_num_threads(place.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    if place.device != "cpu" and not torch.cuda.is_available():
        raise NotHere(f"PyTorch {torch.__version__} finds no GPU; measure with --device cpu")
    return torch.device(place.device)


def read_weights(path: Path) -> Any:
    """Load a peer's checkpoint on the CPU. Raises `CheckpointError` if that fails."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        raise CheckpointError(f"the weights {path} cannot be read: {_brief(error)}") from error
    except Exception as error:  # the errors of pickle have no common base class
        raise CheckpointError(
            f"the weights {path} are not a plain PyTorch checkpoint: {_brief(error)}"
        ) from error


def read_entry(path: Path, entry: str) -> Any:
    """One entry of a peer's checkpoint, loaded on the CPU. Raises `CheckpointError` if there is
    none."""
    state = read_weights(path)
    if not isinstance(state, dict) or entry not in state:
        raise CheckpointError(f"{path}: expected a checkpoint with a `{entry}` entry")
    return state[entry]


def load_weights(network: nn.Module, state: Any, path: Path) -> None:
    """Load all weights, strictly. Raises `CheckpointError` if they are of another network."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the weights {path} are of another network: {_brief(error, lines=2)}"
        ) from error


def _brief(error: Exception, *, lines: int = 1) -> str:
    """The first lines of PyTorch's message as one, at most 200 letters."""
    text = " ".join(line.strip() for line in str(error).splitlines()[:lines])
    return text if len(text) <= 200 else f"{text[:199]}…"


def identity_of(
    place: Place,
    code: PeerCode,
    *,
    label: str,
    family: str,
    input_size: tuple[int, int],
    engine: str | None = None,
    warnings: Sequence[str] = (),
) -> Identity:
    """The identity of a peer in fp32. engine: if it is not eager PyTorch."""
    weights = place.weights
    digest = ""
    if weights is not None:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Identity(
        label=label,
        family=family,
        engine=engine or f"torch {torch.__version__} fp32 on {place.device}",
        precision="fp32",
        source=code.text,
        weights=weights.name if weights else "random",
        sha256=digest,
        input_size=input_size,
        warnings=(*code.warnings, *warnings),
    )


class TorchContestant(ABC):
    """A contestant in PyTorch, whose cost is counted by running it once more."""

    encodes = True
    served = False

    def __init__(self, network: nn.Module, identity: Identity) -> None:
        self.network: Any = network
        self.identity = identity
        self._image: Image | None = None

    def set_image(self, image: Image) -> None:
        self._image = image
        self._encode(image)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    @abstractmethod
    def click(self, clicks: Sequence[Click]) -> Mask: ...

    def cost(self) -> Cost | None:
        image = self._image
        if image is None:
            return None
        height, width = image.shape[:2]
        encode = count(lambda: self._encode(image))
        click = count(lambda: self.click([Click(width // 2, height // 2)]))
        return Cost(
            parameters=sum(each.numel() for each in self.network.parameters()),
            encode_flops=encode.flops,
            encode_bytes=encode.bytes,
            click_flops=click.flops,
            click_bytes=click.bytes,
        )

    def close(self) -> None:
        self._image = None

    @abstractmethod
    def _encode(self, image: Image) -> None: ...


def arrays_of(clicks: Sequence[Click]) -> tuple[Any, Any]:
    """Points (P, 2) float32 (x, y) and labels (P) int32, 1 = positive, for SAM's predictor."""
    points = np.array([(click.x, click.y) for click in clicks], dtype=np.float32)
    return points, np.array([click.positive for click in clicks], dtype=np.int32)
