"""What the figures share: pictures of one photograph at a panel's width, and the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from ois_cli.drawing.pictures import draw_clicks, overlay, picture_bytes
from ois_cli.drawing.sheet import Panel, sheet
from ois_cli.files import PICTURE_FORMATS, check_distinct, check_output
from ois_client.contract.clicks import Click
from ois_client.contract.files import write_files

Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="The figure: .png, .jpg or .webp.", show_default=False),
]
PanelWidth = Annotated[
    int, typer.Option(min=60, max=2000, help="Width of one picture in the figure, in pixels.")
]

_PIXELS_PER_LETTER = 9  # of a title, on average


class Stage:
    """One photograph at the width of a panel. Masks and clicks are drawn at that size, so that
    lines and markers are as large for a photograph of 20 megapixels as for a small one.
    """

    def __init__(self, pixels: NDArray[np.uint8], width: int) -> None:
        """pixels: (H, W, 3) uint8 RGB."""
        full = Image.fromarray(pixels)
        self.scale = width / full.width
        height = max(1, round(full.height * self.scale))
        self.image = np.asarray(full.resize((width, height), Image.Resampling.LANCZOS))

    def draw(
        self, mask: NDArray[np.generic] | None = None, clicks: Sequence[Click] = ()
    ) -> NDArray[np.uint8]:
        """The photograph with a mask (H, W), 1 = object, and clicks in pixels of the original."""
        shown = self.image
        if mask is not None:
            height, width = shown.shape[:2]
            small = Image.fromarray(mask.astype(bool)).convert("L")
            small = small.resize((width, height), Image.Resampling.BOX)
            shown = overlay(shown, (np.asarray(small) > 127).astype(np.uint8))
        return self.with_clicks(shown, clicks)

    def with_clicks(self, picture: NDArray[np.uint8], clicks: Sequence[Click]) -> NDArray[np.uint8]:
        """A picture of the stage's size with clicks in pixels of the original."""
        moved = [
            Click((c.x + 0.5) * self.scale - 0.5, (c.y + 0.5) * self.scale - 0.5, c.positive)
            for c in clicks
        ]
        return draw_clicks(picture, moved, radius=max(5, self.image.shape[1] // 45))

    def blank(self) -> NDArray[np.uint8]:
        """An empty picture of the same size, for a result that is missing."""
        return np.full_like(self.image, 245)


def check_figure(out: Path, *inputs: Path | None) -> None:
    """Raises `InvalidInput` or `OutputError` if the figure cannot be written, or is an input."""
    check_output(out, PICTURE_FORMATS)
    check_distinct([out], [path for path in inputs if path is not None])


def write_figure(
    out: Path, rows: Sequence[Sequence[Panel]], *, panel_width: int, footer: str = ""
) -> None:
    """Write rows of equally many panels as one picture. Raises `OutputError`."""
    panels = [Panel(fit(one.title, panel_width), one.picture) for row in rows for one in row]
    picture = sheet(panels, columns=len(rows[0]), panel_width=panel_width, footer=footer)
    write_files({out: picture_bytes(picture, out)})


def percent(iou: float) -> str:
    return f"{100 * iou:.1f} %"


def fit(title: str, width: int) -> str:
    """The title without the middle of its first word if it is wider than the panel."""
    most = max(8, width // _PIXELS_PER_LETTER)
    surplus = len(title) - most
    if surplus <= 0:
        return title
    first, _, rest = title.partition(" ")
    kept = max(4, len(first) - surplus - 2)
    shortened = f"{first[: kept // 2]}..{first[len(first) - kept + kept // 2 :]}"
    return f"{shortened} {rest}" if len(first) > kept + 2 else title
