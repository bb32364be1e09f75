"""Image features of a frozen encoder, kept on disk: every image is encoded once, not 15 times.

A file an image, named by the pixels and the encoder's weights, so that nothing stale can be
read. It holds the four levels in bf16 and the depth in fp32: for ViT-B at 1022x1022 36 MB an
image, so HQSeg44K needs 1.6 TB; meant for smaller sets and networks. The rounded values are
used on the first visit too, or a resumed run would differ.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ois_client.contract.errors import InvalidInput, OutputError
from ois_network.network import OISNetwork
from ois_network.training.config import TrainConfig
from ois_network.training.data.batches import Batch
from ois_network.training.forward import EncodedBatch, encode_levels
from ois_network.training.state import write_atomically

_FROZEN = {"encoder", "depth_head"}


class FeatureCache:
    """Called with a batch, returns its features; the mask head's laterals are never cached."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """Raises `InvalidInput` when the recipe would change the features or the pictures."""
        if not set(config.frozen) >= _FROZEN:
            raise InvalidInput(
                f"the recipe trains {', '.join(sorted(_FROZEN - set(config.frozen)))}; features "
                "can be cached only when encoder and depth head are frozen"
            )
        if any(stage.images > 1 for stage in config.stages):
            raise InvalidInput(
                "the recipe has stages with several images a step, cut to a shape that is drawn "
                "anew each time; features can be cached when images = 1 (use accumulate instead)"
            )
        if config.augment.on:
            raise InvalidInput(
                "the recipe augments, so no picture is seen twice; switch it off "
                "(augment.on = false) to cache features"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"could not create {folder}: {error}") from error
        self.folder = folder
        self.weights = b""  # known at the first batch: a resumed run brings its own weights
        self.hits = self.misses = 0

    def __call__(self, network: OISNetwork, batch: Batch) -> EncodedBatch:
        stored = [self._image(network, batch, number) for number in range(len(batch.image))]
        device = batch.image.device
        levels = [
            torch.cat([item[f"level{n}"] for item in stored]).to(device).float()
            for n in (1, 2, 3, 4)
        ]
        depth = torch.cat([item["depth"] for item in stored]).to(device)
        return encode_levels(network, levels, depth)

    def _image(self, network: OISNetwork, batch: Batch, number: int) -> dict[str, Tensor]:
        from safetensors.torch import load_file, save

        image = batch.image[number]
        self.weights = self.weights or _weights_digest(network)
        digest = hashlib.sha256(self.weights)
        digest.update(b"bf16" if torch.is_autocast_enabled(image.device.type) else b"fp32")
        digest.update(str(tuple(image.shape)).encode())
        digest.update(image.cpu().numpy().tobytes())
        path = self.folder / f"{digest.hexdigest()}.safetensors"
        if path.is_file():
            self.hits += 1
            return load_file(path)
        self.misses += 1
        with torch.no_grad():
            levels = network.encoder(image.unsqueeze(0), batch.pos_rows, batch.pos_cols)
            depth = torch.relu(network.depth_head(levels, project_first=True)).float()
        content = {f"level{n}": level.bfloat16().cpu().contiguous()
                   for n, level in enumerate(levels, 1)}  # fmt: skip
        content["depth"] = depth.cpu().contiguous()
        write_atomically(path, lambda file: file.write(save(content)))
        return content


def _weights_digest(network: OISNetwork) -> bytes:
    digest = hashlib.sha256()
    for part in (network.encoder, network.depth_head):
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.digest()
