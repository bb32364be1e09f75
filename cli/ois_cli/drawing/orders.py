"""Order maps as labelled panels: what the network knows of front and behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ois_cli.drawing.pictures import order_picture
from ois_cli.drawing.sheet import Panel
from ois_client.contract.clicks import Click
from ois_client.contract.geometry import Geometry


def order_panels(
    depth: NDArray[np.float32], objects: Mapping[int, Sequence[Click]], geometry: Geometry
) -> list[Panel]:
    """One panel for an object's positive clicks together, one for each negative click.

    depth: (h, w) at network size, near 0 and far 1. objects: number -> clicks in image pixels.
    """
    # The runtime is imported here so that `ois --help` stays quick.
    from ois_runtime.engines.image_state import order_maps

    size = (geometry.width, geometry.height)
    panels: list[Panel] = []
    for number, clicks in objects.items():
        name = f"object {number}, " if len(objects) > 1 else ""
        maps = order_maps(depth, clicks, geometry)
        positive = [click for click in clicks if click.positive]
        negative = [click for click in clicks if not click.positive]
        if maps.positive is not None:
            picture = order_picture(maps.positive, size, positive)
            panels.append(Panel(f"{name}order M+", picture))
        for index, (order, click) in enumerate(zip(maps.negative, negative, strict=True), start=1):
            which = f" {index}" if len(negative) > 1 else ""
            panels.append(Panel(f"{name}order M-{which}", order_picture(order, size, [click])))
    return panels
