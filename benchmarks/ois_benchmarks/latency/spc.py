"""Seconds per click, by three definitions that are kept apart (see `Definition`)."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
from PIL import Image as Pillow

from ois_benchmarks.contestants.base import Contestant
from ois_benchmarks.latency.result import Definition, Figure
from ois_benchmarks.latency.stages import StageClock
from ois_benchmarks.latency.work import Player, Work, ellipse, jpeg, photograph, script
from ois_benchmarks.timing import Timing, measure
from ois_client.contract.clicks import Click
from ois_network.training.clicks.robot import intersection_over_union, next_robot_click

Figures = dict[Definition, Figure]

_WARM_UP = 2


def measure_spc(contestant: Contestant, work: Work) -> tuple[Timing | None, Figures]:
    """The encode, and the figures: click and loop, or session for a contestant behind a server."""
    image = photograph(work.width, work.height)
    encode = measure_encode(contestant, work)
    player = Player(contestant, script(work.width, work.height), together=True)
    clock = StageClock(contestant)
    click = measure(
        clock.watch(player.click), repeats=work.clicks, warmup=_WARM_UP, patience=work.patience
    )
    figure = of_timing(click)
    if contestant.served:
        figure = replace(figure, stages_s=clock.medians_s(_WARM_UP))
    figures = {Definition.SESSION if contestant.served else Definition.CLICK: figure}
    if not contestant.served:
        figures[Definition.LOOP] = measure_loop(contestant, jpeg(image), work)
    return encode, figures


def measure_encode(contestant: Contestant, work: Work) -> Timing | None:
    """Set the picture and time its encode. None if the contestant does not encode separately."""
    image = photograph(work.width, work.height)
    contestant.set_image(image)
    if not contestant.encodes:
        return None
    return measure(
        lambda: contestant.set_image(image),
        repeats=work.encodes,
        warmup=1,  # the second use of the shape, at which a GPU engine captures its CUDA graph
        patience=work.patience,
    )


def measure_loop(contestant: Contestant, file: bytes, work: Work) -> Figure:
    """The evaluation loop of RITM and SegNext on one object, with all clicks (`--print-ious`)."""
    runs: list[dict[str, float]] = []

    def run() -> None:
        runs.append(one_loop(contestant, file, work))

    timing = measure(run, repeats=1, warmup=0, patience=work.patience)
    near = min(runs, key=lambda parts: abs(sum(parts.values()) - timing.median_s))
    clicks = work.loop_clicks
    return Figure(
        seconds=timing.median_s / clicks,
        low_s=timing.low_s / clicks,
        high_s=timing.high_s / clicks,
        clicks=clicks,
        parts_s={name: seconds / clicks for name, seconds in near.items()},
        timing=timing,
    )


def one_loop(contestant: Contestant, file: bytes, work: Work) -> dict[str, float]:
    """Seconds by part. The robot user and the object are the same for all contestants."""
    target = ellipse(work.width, work.height)
    parts = dict.fromkeys(("decode", "encode", "robot", "click", "score"), 0.0)
    clock = time.perf_counter()

    def note(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        parts[part] += now - clock
        clock = now

    with Pillow.open(io.BytesIO(file)) as picture:
        image = np.array(picture.convert("RGB"))
    note("decode")
    contestant.set_image(image)
    note("encode")
    mask = np.zeros(target.shape, dtype=np.bool_)
    made: list[Click] = []
    for _ in range(work.loop_clicks):
        made.append(next_robot_click(target, mask, made))
        note("robot")
        mask = contestant.click(made)
        note("click")
        intersection_over_union(target, mask)
        note("score")
    return parts


def of_timing(timing: Timing) -> Figure:
    """The figure of a timing's median."""
    return Figure(
        seconds=timing.median_s,
        low_s=timing.low_s,
        high_s=timing.high_s,
        clicks=timing.repeats,
        timing=timing,
    )
