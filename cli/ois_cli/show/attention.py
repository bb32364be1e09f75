"""`ois show attention`: what the embeddings of clicks attend to, with and without order maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ois_cli.clicking import ObjectClick, check_clicks
from ois_cli.drawing.pictures import attention_picture, order_picture
from ois_cli.drawing.sheet import Panel
from ois_cli.options import AsJson
from ois_cli.output import print_json, progress, warn
from ois_cli.show.figure import Out, PanelWidth, Stage, check_figure, write_figure
from ois_client.contract.clicks import SLOTS_PER_SIGN, Click
from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from ois_client.contract.clicks import Prompts
    from ois_client.contract.geometry import Geometry
    from ois_network.network import ImageFeatures, OISNetwork

_TOP = 0.995  # quantile of a block's weights that gets the brightest colour


@dataclass(frozen=True, slots=True, eq=False)
class BlockAttention:
    """One block's attention of one click, the mean over heads; both (gh, gw) float32, sum 1.

    before, after: without and with the order map. depth_before, depth_after: the mean distance in
    depth between the click and what is attended to, from 0 to 1.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    depth_before: float
    depth_after: float


@dataclass(frozen=True, slots=True, eq=False)
class ClickAttention:
    """The attention of one click's embedding. order: (h, w), its order map at network size."""

    click: Click
    order: NDArray[np.float32]
    blocks: list[BlockAttention]


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """mask: (H, W) uint8, 1 = object, after all clicks. sigmas: σ of each block."""

    clicks: list[ClickAttention]
    mask: NDArray[np.uint8]
    sigmas: list[float]


def register(parent: typer.Typer) -> None:
    parent.command()(attention)


def attention(
    image: Annotated[Path, typer.Argument(help="The photograph.", show_default=False)],
    point: Annotated[
        list[str],
        typer.Option(
            "--point",
            "-p",
            metavar="X,Y[,+|-]",
            help="A click in pixels from the top left; [b]80,40,-[/b] removes. Repeat the option "
            "for more clicks on the same object.",
            show_default=False,
        ),
    ],
    out: Out,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="OIS checkpoint. Default: the shipped ois-photo."),
    ] = None,
    panel_width: PanelWidth = 240,
    as_json: AsJson = False,
) -> None:
    """Draw what each click's embedding attends to, before and after the order map.

    One row per click: image with its mask, order map, and for each fusion block the weights of
    order-aware attention, the mean over heads. "Before" is the same softmax without the bias of
    the order map; both have the same colours. The clicks are applied one after another, so the
    last one sees the mask of those before it. There is no --url: servers and engines do not return
    the weights of attention, so the PyTorch network runs here.

    Example: [b]ois show attention photo.jpg -p 300,200 -p 60,40,- -o attention.png[/b]
    """
    check_figure(out, image, checkpoint)
    from ois_client.contract.images import load_image
    from ois_network.checkpoints.checkpoint import load_checkpoint
    from ois_runtime.shipped import named_checkpoint

    clicks = [Click.parse(text) for text in point]
    picture = load_image(image)
    check_clicks([ObjectClick(1, click) for click in clicks], picture)
    with progress("loading the network"):
        loaded = load_checkpoint(named_checkpoint(checkpoint))
    if not loaded.trained:
        warn("the weights are random, and so is the attention")
    pixels = picture.pixels()
    with progress("clicking"):
        found = attention_of(loaded.network, pixels, clicks)
    stage = Stage(pixels, panel_width)
    rows = [_row(number, one, stage, found.mask) for number, one in enumerate(found.clicks, 1)]
    sigmas = ", ".join(f"{sigma:.2f}" for sigma in found.sigmas)
    footer = f"sigma of the blocks: {sigmas}. {loaded.config.name}, mean over heads."
    write_figure(out, rows, panel_width=panel_width, footer=footer)
    document = _document(found, loaded.config.name, out)
    if as_json:
        print_json(document)
    else:
        _print(document)


def attention_of(
    network: OISNetwork, pixels: NDArray[np.uint8], clicks: Sequence[Click]
) -> Attention:
    """The attention of every click, after all of them were applied one after another.

    pixels: (H, W, 3) uint8 RGB. clicks: at least one, inside the image. Raises `InvalidInput` if
    the network has no order maps.
    """
    import torch

    from ois_network.attention_weights import attention_weights
    from ois_network.network import on_grid
    from ois_network.order import relative_depth
    from ois_runtime.engines.image_state import order_maps
    from ois_runtime.engines.pixels import postprocess, preprocess

    config = network.config
    if not config.uses_order_maps:
        raise InvalidInput(
            f"got the network {config.name}, which has no order maps (sparse, order_attention or "
            "order is false); expected one whose attention uses them"
        )
    resized, geometry = preprocess(pixels, config.fit)
    matrices = geometry.position_matrices(config.position_table)
    with torch.inference_mode():
        features = network.encode(
            torch.from_numpy(resized).unsqueeze(0), *map(torch.from_numpy, matrices)
        )
        prompts, logits = apply_clicks(network, features, clicks, geometry)
        near, far = features.depth.amax((1, 2)), features.depth.amin((1, 2))
        depth = relative_depth(features.depth, far, near)
        order, _ = network.attention_biases(depth, on_grid(prompts, network.config))
        blocks = attention_weights(network, features, prompts)
    assert order is not None  # uses_order_maps
    maps = order_maps(depth[0].numpy(), clicks, geometry)
    negative = iter(maps.negative)
    grid = (geometry.grid_height, geometry.grid_width)
    found = []
    for click, slot in zip(clicks, _slots(clicks), strict=True):
        distance = order[0, 0, slot].numpy()
        of_click = []
        for block in blocks:
            assert block.order is not None
            pair = (block.order.unbiased, block.order.biased)
            before, after = (weights[0, :, slot].mean(0).numpy() for weights in pair)
            depths = float(before @ distance), float(after @ distance)
            of_click.append(BlockAttention(before.reshape(grid), after.reshape(grid), *depths))
        own = maps.positive if click.positive else next(negative)
        assert own is not None
        found.append(ClickAttention(click, own, of_click))
    sigmas = [block.sigma for block in blocks if block.sigma is not None]
    return Attention(found, postprocess(logits.numpy(), geometry)[0], sigmas)


def apply_clicks(
    network: OISNetwork, features: ImageFeatures, clicks: Sequence[Click], geometry: Geometry
) -> tuple[Prompts[Tensor], Tensor]:
    """The last click's prompts, with the mask of the clicks before it, and its logits (1, h, w)."""
    import torch

    from ois_client.contract.clicks import Prompts, fill_slots
    from ois_network.order import coverage_of_logits

    coverage = torch.zeros((1, *geometry.coverage_shape), dtype=torch.uint8)
    for count in range(1, len(clicks) + 1):
        points, labels = fill_slots([clicks[:count]], geometry)
        prompts = Prompts(
            torch.from_numpy(points),
            torch.from_numpy(labels),
            coverage,
            torch.tensor([count > 1]),
        )
        logits = network.click(features, prompts)
        coverage = coverage_of_logits(logits, network.config.coverage_stride)
    return prompts, logits


def _slots(clicks: Sequence[Click]) -> list[int]:
    """The slot of each click, as `fill_slots` gives them."""
    free = {True: 0, False: SLOTS_PER_SIGN}
    slots = []
    for click in clicks:
        slots.append(free[click.positive])
        free[click.positive] += 1
    return slots


def _row(number: int, one: ClickAttention, stage: Stage, mask: NDArray[np.uint8]) -> list[Panel]:
    size = (stage.image.shape[1], stage.image.shape[0])
    own = [one.click]
    sign = "+" if one.click.positive else "-"
    panels = [
        Panel(f"click {number}, {sign}", stage.draw(mask, own)),
        Panel(f"order map M{sign}", stage.with_clicks(order_picture(one.order, size), own)),
    ]
    for index, block in enumerate(one.blocks, start=1):
        top = float(np.quantile(np.stack((block.before, block.after)), _TOP))
        for when, weights in (("before", block.before), ("after", block.after)):
            picture = attention_picture(stage.image, weights, top)
            panels.append(Panel(f"block {index}, {when}", stage.with_clicks(picture, own)))
    return panels


def _document(found: Attention, network: str, out: Path) -> dict[str, Any]:
    return {
        "network": network,
        "sigma": [round(sigma, 4) for sigma in found.sigmas],
        "clicks": [
            {
                "click": [one.click.x, one.click.y, one.click.positive],
                "depth_distance": [
                    {"before": round(b.depth_before, 5), "after": round(b.depth_after, 5)}
                    for b in one.blocks
                ],
            }
            for one in found.clicks
        ],
        "area_px": int(found.mask.sum()),
        "file": str(out),
    }


def _print(document: dict[str, Any]) -> None:
    print("mean distance in depth of what is attended to, before -> after the order map:")
    for number, one in enumerate(document["clicks"], start=1):
        sign = "+" if one["click"][2] else "-"
        pairs = (f"{b['before']:.3f} -> {b['after']:.3f}" for b in one["depth_distance"])
        blocks = ", ".join(f"block {index} {text}" for index, text in enumerate(pairs, start=1))
        print(f"click {number} {sign}: {blocks}")
    print(f"figure: {document['file']}")
