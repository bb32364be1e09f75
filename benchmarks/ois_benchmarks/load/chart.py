"""The text chart of a load run: one row per finished step, and the current step.

   users without a pause      clicks/s  p50 ms  p95 ms   ms, log scale to the limit of 500
1  ...                            31.8      31      34   █████████▌
4  ...                            39.1     101     123   █████████████▍
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ois_benchmarks.load.meter import Meter
from ois_benchmarks.load.pacing import Step
from ois_benchmarks.load.result import StepResult
from ois_benchmarks.statistics import Estimate

BAR = 20  # characters
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
_SHORTEST_MS = 1.0


def bar(ms: float, limit_ms: float, width: int = BAR) -> str:
    """A bar on a logarithmic scale from 1 ms to the limit; it ends in `▶` beyond the limit."""
    if ms > limit_ms:
        return "█" * (width - 1) + "▶"
    share = math.log(max(ms, _SHORTEST_MS)) / math.log(max(limit_ms, math.e))
    eighths = round(8 * width * share)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def sparkline(values: Sequence[float]) -> str:
    """One character per value, scaled from 0 to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return _LEVELS[0] * len(values)
    return "".join(_LEVELS[round((len(_LEVELS) - 1) * value / top)] for value in values)


def table(results: Sequence[StepResult], limit_ms: float) -> Table:
    """One row per step, latencies in ms. The bar shows p95, or p50 if there are too few clicks."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    made.add_column("step", no_wrap=True)
    for column in ("clicks/s", "p50", "p95", "p99"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column(f"p95, log to {limit_ms:g} ms", no_wrap=True, min_width=BAR)
    made.add_column("")
    for one in results:
        latency = one.latency_ms
        shown = latency.p95 or latency.p50
        sustained = one.sustained(limit_ms)
        made.add_row(
            one.label,
            f"{one.throughput:.1f}",
            *(_ms(estimate) for estimate in (latency.p50, latency.p95, latency.p99)),
            Text(bar(shown.value, limit_ms) if shown else "", "green" if sustained else "red"),
            _remark(one),
        )
    return made


def live(
    results: Sequence[StepResult], step: Step, meter: Meter, limit_ms: float
) -> RenderableType:
    """The table so far, and the current step."""
    seconds = int(meter.now)
    ended = np.array([timed.ended for timed in meter.clicks])
    per_second = np.histogram(ended, bins=max(1, seconds), range=(0, max(1, seconds)))[0]
    of = f" of {meter.seconds:g}" if math.isfinite(meter.seconds) else ""
    recent = [timed.ms for timed in meter.clicks if timed.ended > meter.now - 3]
    middle = f", p50 of the last 3 s: {np.median(recent):.0f} ms" if recent else ""
    failed = meter.failed.total() + meter.failed_opens.total()
    return Group(
        table(results, limit_ms),
        Text(f"▸ {step.label}, second {seconds}{of}", "bold"),
        Text(
            f"  clicks/s {sparkline([*per_second[-40:]])}  {len(meter.clicks)} answered, "
            f"{meter.in_flight} in flight{middle}{f', {failed} failed' if failed else ''}"
        ),
    )


def line(result: StepResult) -> str:
    """A step as one line for a log."""
    latency = result.latency_ms
    parts = ", ".join(
        f"{name} {_ms(estimate)} ms"
        for name, estimate in (("p50", latency.p50), ("p95", latency.p95), ("p99", latency.p99))
        if estimate
    )
    remark = _remark(result)
    return (
        f"{result.label}: {result.throughput:.1f} clicks/s{', ' + parts if parts else ''}"
        f"{', ' + remark if remark else ''}"
    )


def _ms(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.1f}" if estimate.value < 10 else f"{estimate.value:.0f}"


def _remark(result: StepResult) -> str:
    """Failures of a step, and the encodes of a cold store."""
    parts = []
    if result.encodes and result.open_ms.p50:
        parts.append(f"{result.encodes} encoded, {_ms(result.open_ms.p50)} ms to open")
    if result.recovered:
        parts.append(f"{result.recovered} encoded again for a click")
    for counts, what in ((result.failed, "click"), (result.failed_opens, "image")):
        parts += [f"{count} {what} {code}" for code, count in counts.items()]
    if result.lost:
        parts.append(f"{result.lost} LOST")
    if result.stopped:
        parts.append(f"stopped: {result.stopped}")
    return ", ".join(parts)
