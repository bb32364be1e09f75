"""The style of every chart: colours, sizes, axes, and how matplotlib's figures become SVG text.

    figure, axes = new_axes(height=300, left=74)     # sizes in pixels
    axes.plot(...)                                   # matplotlib's own methods
    to_svg(figure, "what it shows")                  # an inline SVG element

Colours have a contrast of at least 3:1 with a white and with a dark page, which is enough for
lines and areas (WCAG 2). Text needs more, so `themed` lets the page's style sheet choose its
colour. matplotlib takes a second to import, so it is imported only when a chart is drawn.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from xml.sax.saxutils import escape

from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pixels. A figure is laid out for this width and this size of text.
WIDTH = 1100
FONT = 13

BLUE, ORANGE, GREEN, PURPLE = "#2f81d8", "#c96a12", "#2e9a58", "#b257c4"
RED, TEAL = "#d9534a", "#17939e"
#: Axes and remarks, and what must stand out from them.
GREY, INK = "#7d8590", "#7c7f86"
OURS, PEER = BLUE, ORANGE
#: Of curves, in the order in which they are drawn: distinct in hue for the common deficiencies
#: of colour vision.
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
#: Of the parts of a stacked bar. `INSIDE` can be read on each of them.
PARTS = (BLUE, ORANGE, GREEN, PURPLE, TEAL, GREY)
INSIDE = "#10161d"

#: Colour of text -> the variable of the page's style sheet that replaces it.
_VARIABLES = {
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
    RED: "--red",
    GREY: "--muted",
    INK: "--ink",
}
_STYLE: dict[str, Any] = {
    "font.size": FONT,
    "text.color": GREY,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.labelcolor": GREY,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "grid.linewidth": 1.0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    **{
        f"{axis}tick.{key}": value
        for axis in "xy"
        for key, value in {
            "color": GREY,
            "labelsize": FONT,
            "major.size": 0,
            "minor.size": 0,
            "major.pad": 6,
        }.items()
    },
    "svg.fonttype": "none",  # text stays text
}
#: Average width of a character as a share of the font's size.
_CHARACTER = 0.6
#: Marks an artist's id as the text to show when the pointer is over it.
_TIP = "tip: "

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run `draw` with this module's style instead of the user's matplotlibrc.

    The decorated function raises `InvalidInput` if matplotlib cannot be imported.
    """

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            import matplotlib.style
        except ImportError as error:
            raise InvalidInput(
                f"charts need matplotlib, which cannot be imported here ({error}); run pip install "
                "'ois-deploy[bench]'"
            ) from error
        with matplotlib.style.context(["default", _STYLE]):
            return draw(*args, **kwargs)

    return wrapper


@styled
def new_axes(
    height: float,
    *,
    width: float = WIDTH,
    left: float = 0,
    right: float = 0,
    top: float = 0,
    bottom: float = 0,
) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes. height, width: of the figure; the rest: margins.

    All sizes are pixels of the SVG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left, bottom, width - left - right, height - top - bottom)
    axes = figure.add_axes(
        (box[0] / width, box[1] / height, box[2] / width, max(1.0, box[3]) / height)
    )
    return figure, axes


def set_log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make axis "x" or "y" logarithmic from `low` to `high`, with round values as ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between `low` and `high`, at least three if possible.

    Powers of ten over more than four decades. Otherwise 1, 2 and 5 times these, or more digits
    where that gives too few.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors: tuple[int, ...]
    ticks: list[float] = []
    for factors in ((1,), (1, 2, 5), (1, 2, 3, 5), tuple(range(1, 10))):
        if factors == (1,) and len(powers) <= 5:
            continue
        ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart to at least `gap`, in their order and between `low` and `high`.

    Where they do not fit, those at the end lie beyond `high`.
    """
    order = sorted(range(len(places)), key=lambda n: places[n])
    moved = [places[n] for n in order]
    for _ in range(200):
        worst = 0.0
        for n, (first, second) in enumerate(pairwise(moved)):
            lacking = gap - (second - first)
            if lacking > 1e-6:
                moved[n], moved[n + 1] = first - lacking / 2, second + lacking / 2
                worst = max(worst, lacking)
        if moved and moved[0] < low:
            moved[0] = low
        if moved and moved[-1] > high and high - low >= gap * (len(moved) - 1):
            moved[-1] = high
        if worst < 0.1:
            break
    found = [0.0] * len(places)
    for n, place in zip(order, moved, strict=True):
        found[n] = place
    return found


def text_width(text: str) -> float:
    """About the width of `text` in pixels."""
    return len(text) * _CHARACTER * FONT


def shorten(text: str, width: float) -> str:
    """`text`, cut to about `width` pixels."""
    most = max(1, int(width / (_CHARACTER * FONT)))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def set_tip(artist: Artist, text: str) -> None:
    """Show `text` when the pointer is over `artist`."""
    artist.set_gid(_TIP + text)


def tips(figure: Figure) -> list[str]:
    """The texts given to `set_tip`, in the order in which they are drawn."""
    found = (artist.get_gid() for artist in figure.findobj())
    return [gid.removeprefix(_TIP) for gid in found if gid and gid.startswith(_TIP)]


@styled
def to_svg(figure: Figure, description: str, title: str = "") -> str:
    """An SVG element without scripts, ids that could clash, or anything from outside.

    description: what the figure shows, for readers who cannot see it. Equal figures give equal
    text.
    """
    import matplotlib

    for artist in figure.findobj():
        artist.set_clip_on(False)  # a clip path is one more id
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # The ids that stay are hashes. The salt keeps those of two figures on one page apart.
    with matplotlib.rc_context({"svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    inside = text[text.index(">", text.index("<svg ")) + 1 :]
    inside = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inside, count=1, flags=re.DOTALL)
    inside = re.sub(r'<g id="[^"]*"/>', "", inside)
    inside = re.sub(r"<g id=([\"'])(.*?)\1>", _group, inside)
    inside = re.sub(r"<[^>]*>", _compact, inside)
    inside = re.sub(r"\n\s*", "\n", inside)
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'stroke-linejoin="round">\n'
        + (f"<title>{escape(title)}</title>\n" if title else "")
        + f"<desc>{escape(description)}</desc>"
        + inside
    )


def themed(svg: str) -> str:
    """An element of `to_svg` whose texts take their colours from the page's style sheet."""

    def colour(match: re.Match[str]) -> str:
        name = _VARIABLES.get(match[1])
        return f"fill: var({name}, {match[1]})" if name else match[0]

    return re.sub(
        r"<text [^>]*>",
        lambda tag: re.sub(r"fill: (#[0-9a-f]{6})", colour, tag[0]),
        svg,
    )


def _compact(tag: re.Match[str]) -> str:
    """A tag with two decimals, the page's font, and no rotation by 0 degrees."""
    text = re.sub(r"\s+", " ", tag[0])
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)
    text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)


def _group(match: re.Match[str]) -> str:
    gid = match[2]
    return f"<g><title>{gid.removeprefix(_TIP)}</title>" if gid.startswith(_TIP) else "<g>"
