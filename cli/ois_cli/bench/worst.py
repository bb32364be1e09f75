"""The picture of the worst objects of `ois bench quality`: the true mask, and the masks after one
click and after five, on the part of the image around the object.

The log holds no masks, so the recorded clicks are made once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.drawing.pictures import picture_bytes
from ois_cli.drawing.sheet import Panel, sheet
from ois_cli.output import progress, warn
from ois_cli.show.figure import Stage, fit, percent
from ois_client.contract.clicks import Click
from ois_client.contract.errors import OISError
from ois_client.contract.images import load_image

if TYPE_CHECKING:
    from ois_benchmarks.contestants.client import PeerClient
    from ois_benchmarks.quality.datasets import Dataset, Target
    from ois_benchmarks.quality.records import Log
    from ois_client.sessions.client import Client

_WIDTH = 220
_QUALITY = 80
#: The part that is drawn is at least this many times the object's box, and this share of the image.
_AROUND, _LEAST = 2.0, 0.15


def worst_picture(
    client: Client | PeerClient, dataset: Dataset, log: Log, document: dict[str, Any]
) -> bytes | None:
    """A JPEG with a row for each of the result's worst objects, in its order.

    document: of `ois_benchmarks.quality.result.result`. An object whose clicks fail now has blank
    panels. Returns None if none of them can be loaded any more.
    """
    listed = [entry["name"] for entry in document["worst"]]
    drawn: dict[str, list[Panel]] = {}
    with progress("drawing the worst objects"):
        for name, target in _targets(dataset, listed):
            made = [Click(*click) for click in log.measured[name].clicks]
            drawn[name] = _row(client, name, target, made, log.measured[name].ious)
    rows = [drawn[name] for name in listed if name in drawn]
    if not rows:
        return None
    columns = max(map(len, rows))
    panels = [panel for row in rows for panel in row + row[:1] * (columns - len(row))]
    drawing = sheet(panels, columns=columns, panel_width=_WIDTH)
    return picture_bytes(drawing, Path("worst.jpg"), quality=_QUALITY)


def _targets(dataset: Dataset, names: Sequence[str]) -> list[tuple[str, Target]]:
    """The named objects. Data sets are read in order, and scenes are drawn one by one."""
    found: list[tuple[str, Target]] = []
    for item in dataset.items():
        if item.name in names:
            try:
                found.append((item.name, item.load()))
            except OISError as error:
                warn(f"{item.name} is not drawn: {error}")
            if len(found) == len(names):
                break
    return found


def _row(
    client: Client | PeerClient,
    name: str,
    target: Target,
    clicks: Sequence[Click],
    ious: Sequence[float],
) -> list[Panel]:
    """The true mask, and the masks after the clicks of `IOU_AFTER`."""
    from ois_benchmarks.quality.objects import IOU_AFTER

    part = _part(target.mask)
    top, left = part[0].start, part[1].start
    shown = [Click(click.x - left, click.y - top, click.positive) for click in clicks]
    stage = Stage(load_image(target.image).pixels()[part], _WIDTH)
    panels = [Panel(fit(name.replace("\n", " "), _WIDTH), stage.draw(target.mask[part]))]
    wanted = [count for count in IOU_AFTER if count <= len(clicks)]
    masks: dict[int, NDArray[np.uint8]] = {}
    try:
        session = client.open(target.image)
        for count, click in enumerate(clicks[: max(wanted, default=0)], 1):
            masks[count] = session.click(click.x, click.y, click.positive)
    except OISError as error:
        warn(f"{name} is not drawn whole: {error} ({error.code})")
    for count in wanted:
        title = f"{count} click{'s' if count > 1 else ''}"
        if count in masks and count <= len(ious):
            picture = stage.draw(masks[count][part], shown[:count])
            panels.append(Panel(f"{title}: {percent(ious[count - 1])}", picture))
        else:
            panels.append(Panel(f"{title}: failed", stage.blank()))
    return panels


def _part(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns around the object, in the proportions of the image."""
    sides, centres, shares = mask.shape, [], [_LEAST]
    for axis, side in enumerate(sides):
        inside = np.flatnonzero(mask.any(1 - axis))
        centres.append((int(inside[0]) + int(inside[-1]) + 1) / 2)
        shares.append(_AROUND * (int(inside[-1]) + 1 - int(inside[0])) / side)
    lengths = [max(1, round(side * min(1.0, max(shares)))) for side in sides]
    starts = [
        min(max(0, round(centre - length / 2)), side - length)
        for centre, length, side in zip(centres, lengths, sides, strict=True)
    ]
    rows, columns = (
        slice(start, start + length) for start, length in zip(starts, lengths, strict=True)
    )
    return rows, columns
