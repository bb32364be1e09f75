"""What adapters of PyTorch networks share: threads, random weights, counting, identity."""

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
    """Threads, no gradients, a fixed seed for random weights. Raises `NotHere` without a GPU."""
    torch.set_num_threads(place.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    if place.device != "cpu" and not torch.cuda.is_available():
        raise NotHere(f"PyTorch {torch.__version__} finds no GPU here; measure with --device cpu")
    return torch.device(place.device)


def read_weights(path: Path) -> Any:
    """A peer's checkpoint, on the CPU. Raises `CheckpointError`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        raise CheckpointError(f"the weights {path} cannot be read: {error}") from error
    except Exception as error:  # pickle's errors have no common base
        raise CheckpointError(
            f"the weights {path} are not a plain PyTorch checkpoint: {error}"
        ) from error


def load_weights(network: nn.Module, state: Any, path: Path) -> None:
    """All of them, strictly. Raises `CheckpointError` when they are of another network."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the weights {path} are of another network: {str(error).splitlines()[0]}"
        ) from error


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
    """A peer's identity; engine: other than eager PyTorch."""
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
    """A contestant whose work PyTorch does, and can be counted by running it once more."""

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
    """(P, 2) float32 x, y and (P) int32, 1 = positive, as SAM's predictor takes them."""
    points = np.array([(click.x, click.y) for click in clicks], dtype=np.float32)
    return points, np.array([click.positive for click in clicks], dtype=np.int32)
