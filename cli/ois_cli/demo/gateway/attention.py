"""What a click's embedding attends to, computed by the network's checkpoint on this machine.

Engines return masks only. The weights of their attention need the PyTorch network, which the demo
loads at the first request if torch is installed and the checkpoint of the engines is known.

    request, head   clicks      [[x, y, positive], ...]; the last one is explained
             parts  image       the image file
                    coverage    of the mask before the last click; absent without one
    response, head  grid [gh, gw], sigmas, one per block
             parts  before0, after0, object0, before1, ...   grey PNG, one pixel per patch

All are means over the heads. `before` and `after` are the weights of order-aware attention without
and with the order map, `object` those of object-aware attention. Each block has one scale.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.demo.gateway.clicks import read_clicks
from ois_cli.demo.gateway.frames import read_frame
from ois_cli.demo.gateway.pictures import grey_png, read_upload
from ois_client.contract.clicks import SLOTS_PER_SIGN, check_count
from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_client.contract.geometry import Geometry
    from ois_network.network import ImageFeatures, OISNetwork

#: Share of a block's weights below the brightest colour; a few patches would darken all others.
_TOP = 0.995


class AttentionNetwork:
    """The network of a checkpoint, which is loaded when it is first needed."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        self._loaded: OISNetwork | None = None
        #: Features of the last image, by digest: many clicks follow one another on one image.
        self._last: tuple[str, ImageFeatures, Geometry] | None = None

    def answer(self, data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Read a frame -> head and parts of the response. Raises `InvalidInput`."""
        import torch

        from ois_client.contract.clicks import Prompts, fill_slots
        from ois_network.attention_weights import attention_weights

        head, parts = read_frame(data)
        clicks = read_clicks(head.get("clicks"))
        if not clicks:
            raise InvalidInput("got no click; expected at least one, whose attention is shown")
        check_count(clicks)
        with self._lock:
            network = self._network()
            features, fit = self._features(network, parts.get("image", b""))
            for click in clicks:
                click.check(fit.width, fit.height)
            coverage = parts.get("coverage")
            shape = fit.coverage_shape
            if coverage is not None and len(coverage) != shape[0] * shape[1]:
                raise InvalidInput(f"got a coverage of {len(coverage)} cells; expected {shape}")
            before = np.frombuffer(coverage or bytes(shape[0] * shape[1]), np.uint8).copy()
            points, labels = fill_slots([clicks], fit)
            prompts = Prompts(
                torch.from_numpy(points),
                torch.from_numpy(labels),
                torch.from_numpy(before.reshape(1, *shape)),
                torch.tensor([coverage is not None]),
            )
            blocks = attention_weights(network, features, prompts)
        last = clicks[-1].positive
        slot = sum(click.positive == last for click in clicks) - 1 + (0 if last else SLOTS_PER_SIGN)
        grid = (fit.grid_height, fit.grid_width)
        found: dict[str, bytes] = {}
        for number, block in enumerate(blocks):
            maps: dict[str, NDArray[np.float32]] = {}
            if block.order is not None:
                maps["before"] = block.order.unbiased[0, :, slot].mean(0).numpy()
                maps["after"] = block.order.biased[0, :, slot].mean(0).numpy()
            if block.objects is not None:
                maps["object"] = block.objects.biased[0, :, slot].mean(0).numpy()
            top = max(float(np.quantile(np.stack([*maps.values()]), _TOP)), 1e-12) if maps else 1.0
            found |= {
                f"{name}{number}": grey_png((weights / top).reshape(grid))
                for name, weights in maps.items()
            }
        sigmas = [block.sigma for block in blocks]
        return {"grid": list(grid), "sigmas": sigmas}, found

    def _network(self) -> OISNetwork:
        if self._loaded is None:
            from ois_network.checkpoints.checkpoint import load_checkpoint

            self._loaded = load_checkpoint(self._checkpoint).network
        return self._loaded

    def _features(self, network: OISNetwork, data: bytes) -> tuple[ImageFeatures, Geometry]:
        import torch

        from ois_runtime.engines.pixels import preprocess

        picture = read_upload(data)
        if self._last is None or self._last[0] != picture.digest:
            pixels, fit = preprocess(picture, network.config.fit)
            matrices = fit.position_matrices(network.config.position_table)
            with torch.inference_mode():
                image = torch.from_numpy(np.array(pixels)).unsqueeze(
                    0
                )  # a copy: it may be read-only
                features = network.encode(image, *map(torch.from_numpy, matrices))
            self._last = picture.digest, features, fit
        return self._last[1], self._last[2]
