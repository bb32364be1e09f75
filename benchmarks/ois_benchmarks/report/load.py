"""A load run: latency against the rate that arrives, where time goes, and every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ois_benchmarks.load.result import Latency, StepResult
from ois_benchmarks.report import svg
from ois_benchmarks.statistics import Estimate
from ois_benchmarks.table import Column, Row, Table

_HEIGHT, _LEFT, _RIGHT = 330, 74, 96
_QUANTILES = (("p50", "50 %"), ("p95", "95 %"), ("p99", "99 %"))


def arrivals(steps: Sequence[StepResult], found: Mapping[str, Any] | None) -> str:
    """Latency over clicks per second that arrived; "" where no arrivals were measured.

    found: the run's `saturation`.
    """
    ramp = sorted((one for one in steps if one.pace == "arrivals"), key=lambda one: one.level)
    ramp = [one for one in ramp if one.latency_ms.p50]
    if not ramp or found is None:
        return ""
    top = 26.0
    bottom = top + _HEIGHT
    limit = float(found["limit_ms"])
    values = [limit] + [e.value for one in ramp for e in _estimates(one.latency_ms)]
    y = svg.log_scale(values, bottom, top)
    x = svg.Scale(0.0, max(one.level for one in ramp) * 1.06, _LEFT, svg.WIDTH - _RIGHT)
    parts = [
        *svg.x_axis(x, top, bottom, "clicks per second that arrive (Poisson)"),
        *svg.y_axis(y, _LEFT, svg.WIDTH - _RIGHT, "ms from due to mask (log scale)"),
        svg.line(_LEFT, y(limit), svg.WIDTH - _RIGHT, y(limit), "limit"),
        svg.text(
            f"limit for the 95 % line: {limit:g} ms", _LEFT + 8, y(limit) - 6, kind="limit-text"
        ),
    ]
    if found["rate"] is not None:
        knee = x(found["rate"])
        parts += [
            svg.line(knee, top - 4, knee, bottom, "knee"),
            svg.text(
                f"sustained: {found['rate']:g}/s", knee - 6, top - 8, anchor="end", kind="knee-text"
            ),
        ]
    ends = []
    for number, (name, _) in enumerate(_QUANTILES):
        line = [(one.level, getattr(one.latency_ms, name)) for one in ramp]
        known = [(x(level), estimate) for level, estimate in line if estimate]
        if not known:
            continue
        band = [(px, y(e.high)) for px, e in known] + [(px, y(e.low)) for px, e in known[::-1]]
        parts += [
            svg.polygon(band, f"band series-{number}"),
            svg.polyline([(px, y(e.value)) for px, e in known], f"curve series-{number}"),
        ]
        parts += [
            svg.circle(px, y(e.value), 3.5, f"point series-{number}", _tip(name, e))
            for px, e in known
        ]
        ends.append((number, known[-1][0], y(known[-1][1].value)))
    places = svg.spread([place for _, _, place in ends], 17, top, bottom)
    for (number, px, _), place in zip(ends, places, strict=True):
        share = _QUANTILES[number][1]
        parts.append(svg.text(f"{share} within", px + 9, place + 4, kind=f"series-{number}-text"))
    description = "; ".join(
        f"{one.level:g} clicks/s: p50 {one.latency_ms.p50.value:.0f} ms"
        for one in ramp
        if one.latency_ms.p50
    )
    return svg.picture(parts, height=bottom + 46, description=description)


def stages(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """What a time is made of: a stacked bar a row, from zero, linear. "" for no rows.

    rows: label, and parts in ms in the order in which they happen.
    """
    rows = [(label, parts) for label, parts in rows if parts and sum(parts.values()) > 0]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    top = 30.0
    row_height, left = 40, 330
    bottom = top + row_height * len(rows)
    x = svg.Scale(0.0, max(sum(parts.values()) for _, parts in rows), left, svg.WIDTH - 80)
    drawn = svg.x_axis(x, top, bottom, "ms")
    for number, name in enumerate(names):
        place = left + 120 * number
        drawn += [
            svg.box(place, top - 24, 12, 12, f"part part-{number % 6}"),
            svg.text(name.replace("_", " "), place + 18, top - 14),
        ]
    for n, (label, parts) in enumerate(rows):
        y, start = top + row_height * n + 8, 0.0
        drawn.append(svg.text(svg.cut(label, left - 12), left - 10, y + 17, anchor="end"))
        for name, value in parts.items():
            begin, end = x(start), x(start + value)
            part = names.index(name) % 6
            tip = f"{name.replace('_', ' ')}: {svg.number(value)} ms"
            drawn.append(svg.box(begin, y, end - begin, 24, f"part part-{part}", tip))
            if end - begin > 44:
                said = svg.number(value)
                drawn.append(
                    svg.text(said, (begin + end) / 2, y + 17, anchor="middle", kind="inside")
                )
            start += value
        drawn.append(svg.text(svg.number(start), x(start) + 8, y + 17, kind="strong-text"))
    description = "; ".join(f"{label}: {svg.number(sum(p.values()))} ms" for label, p in rows)
    return svg.picture(drawn, height=bottom + 46, description=description)


def steps_table(steps: Sequence[StepResult], limit_ms: float) -> Table:
    """Every step of a run, latencies with their intervals."""
    columns = [
        Column("step", number=False),
        Column("clicks/s"),
        *(Column(name, "click, ms") for name in ("p50", "p95", "p99", "slowest")),
        Column("first click p50, ms"),
        Column("open p50, ms"),
        Column("encoded"),
        Column("failed"),
        Column("lost"),
        Column("within limits", number=False),
    ]
    rows = [
        Row(
            [
                one.label,
                f"{one.throughput:.1f}",
                *(
                    _interval(e)
                    for e in (one.latency_ms.p50, one.latency_ms.p95, one.latency_ms.p99)
                ),
                "" if one.latency_ms.max is None else f"{one.latency_ms.max:,.0f}",
                _value(one.first_click_ms.p50),
                _value(one.open_ms.p50),
                str(one.encodes + one.recovered),
                ", ".join(f"{count} {code}" for code, count in _failures(one).items()) or "0",
                str(one.lost),
                one.problem(limit_ms) or "yes",
            ]
        )
        for one in steps
    ]
    notes = (
        "Latency runs from when a click was due to when its mask was there, unpacked; a quantile "
        "stands only where at least one click lies beyond it. No pause, human pace: closed "
        "loops, so a slow server slows its users down. Arriving: an open loop; a click that had "
        "to wait counts with its wait.",
    )
    return Table("Every step", columns, rows, notes).without_empty_columns()


def _estimates(latency: Latency) -> list[Estimate]:
    return [e for e in (latency.p50, latency.p95, latency.p99) if e is not None]


def _failures(step: StepResult) -> dict[str, int]:
    opens = {f"opening: {code}": count for code, count in step.failed_opens.items()}
    return {**step.failed, **opens}


def _tip(name: str, estimate: Estimate) -> str:
    return f"{name} {estimate.value:.0f} ms ({estimate.low:.0f} to {estimate.high:.0f})"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:,.0f}\n{estimate.low:,.0f} to {estimate.high:,.0f}"


def _value(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:,.0f}"
