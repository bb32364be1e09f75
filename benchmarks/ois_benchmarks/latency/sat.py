"""Seconds to segment a whole picture from a 16x16 grid of clicks, by mode (see `Definition`).

If a contestant is too slow for all 256 clicks, it makes a few of them, spread over the grid. The
figure is then encode + 256 x their median and is marked as projected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ois_benchmarks.contestants.base import AutomaticContestant, BatchedContestant, Contestant
from ois_benchmarks.latency.result import Definition, Figure
from ois_benchmarks.latency.spc import Figures, measure_encode
from ois_benchmarks.latency.stages import StageClock
from ois_benchmarks.latency.work import GRID, Player, Work, grid, photograph
from ois_benchmarks.timing import Timing, measure
from ois_client.contract.clicks import Click

#: Points per side in the short run of the automatic generator, from which a whole one is projected.
_FEW = 4


def measure_sat(contestant: Contestant, work: Work) -> tuple[Timing | None, Figures]:
    """The encode and all modes that the contestant supports.

    Through a server, each call is a request, and the figures say where the time of one went.
    """
    encode = measure_encode(contestant, work)
    figures = {Definition.SEQUENTIAL: sequential(contestant, work, encode)}
    if isinstance(contestant, BatchedContestant):
        figures[Definition.BATCHED] = batched(contestant, contestant, work, encode)
    if isinstance(contestant, AutomaticContestant):
        figures[Definition.AUTOMATIC] = automatic(contestant, work, encode)
    return encode, figures


def sequential(contestant: Contestant, work: Work, encode: Timing | None) -> Figure:
    """One click after another, each on its own object."""
    points = grid(work.width, work.height)
    player = Player(contestant, spread(points, work.sat_clicks), together=False)
    return _whole_or_projected(contestant, work, encode, points, player.click, 1, contestant.click)


def batched(
    contestant: Contestant, batches: BatchedContestant, work: Work, encode: Timing | None
) -> Figure:
    """`work.batch` clicks per call, each on its own object."""
    points = grid(work.width, work.height)
    few = spread(points, max(work.batch, work.sat_clicks))[: work.batch]
    return _whole_or_projected(
        contestant,
        work,
        encode,
        points,
        lambda: batches.click_each(few),
        work.batch,
        batches.click_each,
    )


def automatic(contestant: AutomaticContestant, work: Work, encode: Timing | None) -> Figure:
    """The peer's own generator; projected if a run with few points predicts that it is too slow."""
    image = photograph(work.width, work.height)
    encode_s = encode.median_s if encode else 0.0

    def seconds_with(points_per_side: int, warmup: int) -> Timing:
        return measure(
            lambda: contestant.automatic(image, points_per_side),
            repeats=1,
            warmup=warmup,
            patience=work.patience,
        )

    few = seconds_with(_FEW, 1)
    share = GRID**2 / _FEW**2
    seconds, low, high = (
        encode_s + share * max(0.0, one - encode_s) for one in (few.median_s, few.low_s, few.high_s)
    )
    if seconds > work.full_below_s:
        return Figure(
            seconds=seconds,
            low_s=low,
            high_s=high,
            clicks=_FEW**2,
            projected=True,
            parts_s={"encode": encode_s, "clicks": seconds - encode_s},
            timing=few,
        )
    whole = seconds_with(GRID, 0)
    return Figure(
        seconds=whole.median_s,
        low_s=whole.low_s,
        high_s=whole.high_s,
        clicks=GRID**2,
        parts_s={"encode": encode_s, "clicks": whole.median_s - encode_s},
        timing=whole,
    )


def spread(points: Sequence[Click], count: int) -> list[Click]:
    """`count` of the points, spread evenly; all of them if there are fewer."""
    places = np.linspace(0, len(points) - 1, min(count, len(points))).round().astype(int)
    return [points[place] for place in places]


def _whole_or_projected(
    contestant: Contestant,
    work: Work,
    encode: Timing | None,
    points: Sequence[Click],
    some: Callable[[], object],
    batch: int,
    click: Callable[[Sequence[Click]], object],
) -> Figure:
    """Time a few calls; then make all clicks, or project if that would take too long.

    some: makes the next `batch` of the few clicks. click: makes the given clicks.
    """
    calls = -(-len(points) // batch)
    repeats = -(-work.sat_clicks // batch)
    clock = StageClock(contestant)
    # Two warm-ups, because a GPU engine captures its CUDA graph at the second use of a shape.
    timing = measure(clock.watch(some), repeats=repeats, warmup=2, patience=work.patience)
    encode_s = encode.median_s if encode else 0.0
    seconds = encode_s + calls * timing.median_s
    if seconds > work.full_below_s:
        encode_low, encode_high = (encode.low_s, encode.high_s) if encode else (0.0, 0.0)
        return Figure(
            seconds=seconds,
            low_s=encode_low + calls * timing.low_s,
            high_s=encode_high + calls * timing.high_s,
            clicks=timing.repeats * batch,
            projected=True,
            batch=batch,
            parts_s={"encode": encode_s, "clicks": calls * timing.median_s},
            stages_s=clock.medians_s(2) if contestant.served else {},
            timing=timing,
        )
    image = photograph(work.width, work.height)
    clock = StageClock(contestant)
    click = clock.watch(click)

    def everything() -> None:
        contestant.set_image(image)
        for first in range(0, len(points), batch):
            click(points[first : first + batch])

    whole = measure(everything, repeats=1, warmup=0, patience=work.patience)
    return Figure(
        seconds=whole.median_s,
        low_s=whole.low_s,
        high_s=whole.high_s,
        clicks=len(points),
        batch=batch,
        parts_s={"encode": encode_s, "clicks": whole.median_s - encode_s},
        stages_s=clock.medians_s() if contestant.served else {},
        timing=whole,
    )
