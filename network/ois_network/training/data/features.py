"""A cache on disk for the features of a frozen encoder: each image is encoded once per run.

One file per image, named by a digest of the pixels and the encoder's weights, so that no file can
be out of date. It holds the four levels in bf16 and the depth in fp32. ViT-B at 1022x1022 takes
36 MB per image and HQSeg44K would take 1.6 TB, so the cache is for smaller data sets and networks.
The rounded values are used in the first epoch too, otherwise a resumed run would differ.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import write_file
from ois_network.network import OISNetwork
from ois_network.training.config import TrainConfig
from ois_network.training.data.batches import Batch
from ois_network.training.forward import EncodedBatch, encode_levels

_FROZEN = {"encoder", "depth_head"}


class FeatureCache:
    """Returns the features of a batch when called.

    The mask head's laterals are not cached: the mask head is trained.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """Create `folder` if necessary.

        Raises `InvalidInput` if the recipe changes the features or the images, `OutputError` if
        the folder cannot be created.
        """
        if not set(config.frozen) >= _FROZEN:
            raise InvalidInput(
                f"the recipe trains {', '.join(sorted(_FROZEN - set(config.frozen)))}; features "
                "can be cached only if encoder and depth head are frozen"
            )
        if any(stage.images > 1 for stage in config.stages):
            raise InvalidInput(
                "the recipe has stages with several images per step, which are cut to a random "
                "shape; features can be cached if images = 1 (use accumulate instead)"
            )
        if config.augment.on:
            raise InvalidInput(
                "the recipe augments images, so none is seen twice; set augment.on = false to "
                "cache features"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot create {folder}: {error}; choose another folder") from error
        self.folder = folder
        self.weights = b""  # computed at the first batch, when a resumed run has loaded its weights
        self.hits = self.misses = 0

    def __call__(self, network: OISNetwork, batch: Batch) -> EncodedBatch:
        stored = [self._image(network, batch, number) for number in range(len(batch.image))]
        device = batch.image.device
        levels = [
            torch.cat([item[f"level{n}"] for item in stored]).to(device).float()
            for n in (1, 2, 3, 4)
        ]
        depth = torch.cat([item["depth"] for item in stored]).to(device)
        return encode_levels(network, levels, batch.image, depth)

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
        write_file(path, save(content))
        return content


def _weights_digest(network: OISNetwork) -> bytes:
    digest = hashlib.sha256()
    for part in (network.encoder, network.depth_head):
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.digest()
