"""Charts of `ois bench spc`, `sat` and `engines`: one per definition and image size.

Definitions are never mixed: each has its own chart, with its meaning below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ois_benchmarks.latency.result import (
    Benchmark,
    Definition,
    Figure,
    LatencyResult,
    LatencyRow,
    present_name,
)
from ois_benchmarks.report.inputs import Inputs, Source, describe_machine
from ois_benchmarks.report.page import Block, Chart, Section
from ois_benchmarks.report.times import TimeRow, headline, times_svg

_OURS = "ois"
#: Peers that every headline names: those of the paper's Table 3, run as their authors do, and SAM.
_NAMED = ("segnext-sax2", "hqsam-vitb", "sam-vitb", "simpleclick-448")

_QUANTITIES = {
    Definition.CLICK: "A click",
    Definition.LOOP: "A click of the whole evaluation loop",
    Definition.SESSION: "A click through the server",
    Definition.SEQUENTIAL: "256 clicks one after the other",
    Definition.BATCHED: "256 clicks in batches",
    Definition.AUTOMATIC: "SAM's automatic mask generator",
}
_ENCODE = "once per image, before the first click; networks without this step are left out"


def latency_section(title: str, inputs: Inputs, benchmark: Benchmark) -> Section:
    """The charts of every run of `benchmark`."""
    blocks: list[Block] = []
    for one in inputs.latency:
        if one.result.benchmark is benchmark:
            blocks.append(f"{one.source.name}: {describe_machine(one.result.machine)}.")
            blocks += latency_charts(one.result)
    return Section(title, blocks)


def engines_section(sources: Sequence[Source]) -> Section:
    """The charts of every run of `ois bench engines`."""
    blocks: list[Block] = []
    for source in sources:
        blocks.append(
            f"{source.name}: one network in every engine, {source.document['weights']} weights. "
            f"{describe_machine(source.machine)}."
        )
        blocks += engine_charts(source.document)
    return Section("One network in every engine", blocks)


def device(result: LatencyResult) -> str:
    """The device of the run. Single contestants may have run elsewhere."""
    return str(result.settings.get("device", "cpu"))


def sizes(result: LatencyResult) -> list[tuple[int, int]]:
    """(width, height) of the images, in the order of the rows."""
    return list(dict.fromkeys((row.width, row.height) for row in result.rows))


def rows_at(result: LatencyResult, size: tuple[int, int]) -> list[LatencyRow]:
    return [row for row in result.rows if (row.width, row.height) == size]


def label(row: LatencyRow) -> str:
    return row.identity.label if row.identity else row.contestant


def is_ours(row: LatencyRow) -> bool:
    if row.identity is None:
        return row.contestant.startswith(_OURS)
    return row.identity.family == _OURS


def latency_charts(result: LatencyResult) -> Iterator[Chart]:
    """For each image size: the encode (SPC only), and every definition that has a time."""
    for size in sizes(result):
        rows = rows_at(result, size)
        on = f"on {size[0]}x{size[1]}"
        if result.benchmark is Benchmark.SPC and any(row.encode for row in rows):
            times = [_encode_time(row) for row in rows if row.encode]
            title = headline(times, f"An encode {on}")
            yield Chart(times_svg(times, "an encode"), title, f"encode: {_ENCODE}.")
        failed = [_failed_time(row) for row in rows if row.failed is not None]
        for definition in Definition:
            timed = [row for row in rows if definition in row.figures]
            if timed:
                times = [_time(row, row.figures[definition]) for row in timed] + failed
                failed = []  # listed once, below the first chart
                what = _QUANTITIES[definition]
                title = headline(times, f"{what} {on}")
                caption = f"{definition.value}: {definition.meaning}."
                yield Chart(times_svg(times, definition.value), title, caption)


def loop_parts(result: LatencyResult) -> list[tuple[str, Mapping[str, float]]]:
    """The parts in ms of every `loop` that was timed part by part, with a label, fastest first."""
    found = [
        (
            f"{label(row)}, {row.width}x{row.height}",
            {name: 1e3 * s for name, s in row.figures[Definition.LOOP].parts_s.items()},
        )
        for row in result.rows
        if Definition.LOOP in row.figures and row.figures[Definition.LOOP].parts_s
    ]
    return sorted(found, key=lambda one: sum(one[1].values()))


def engine_charts(document: Mapping[str, Any]) -> Iterator[Chart]:
    """The click and the encode of a result of `ois bench engines`, at each network size."""
    rows = document["rows"]
    for width, height in dict.fromkeys((row["width"], row["height"]) for row in rows):
        here = [row for row in rows if (row["width"], row["height"]) == (width, height)]
        for what, name in (("click", "A click"), ("encode", "An encode")):
            times = [_engine_time(row, what) for row in here]
            title = headline(times, f"{name} of {document['network']} at {width}x{height}")
            caption = f"The {what} engine alone, on arrays in memory."
            yield Chart(times_svg(times, f"{what} engine"), title, caption)


def _engine_time(row: Mapping[str, Any], what: str) -> TimeRow:
    name = present_name(row["contestant"])
    if "failed" in row:
        return TimeRow(name, ours=True, failed=row["failed"])
    timing = row[what]
    return TimeRow(
        name,
        timing["median_s"],
        timing["low_s"],
        timing["high_s"],
        ours=True,
        remark="noisy" if timing["noisy"] else "",
    )


def _time(row: LatencyRow, figure: Figure) -> TimeRow:
    remarks = [
        f"projected ({figure.clicks} clicks)" if figure.projected else "",
        f"{figure.batch} at once" if figure.batch > 1 else "",
        "noisy" if row.noisy else "",
    ]
    remark = ", ".join(filter(None, remarks))
    return _named(row, figure.seconds, figure.low_s, figure.high_s, remark)


def _encode_time(row: LatencyRow) -> TimeRow:
    timing = row.encode
    if timing is None:
        raise ValueError("a row without an encode has no bar")
    return _named(row, timing.median_s, timing.low_s, timing.high_s, "noisy" if row.noisy else "")


def _failed_time(row: LatencyRow) -> TimeRow:
    return TimeRow(label(row), ours=is_ours(row), failed=row.failed)


def _named(row: LatencyRow, seconds: float, low_s: float, high_s: float, remark: str) -> TimeRow:
    return TimeRow(
        label(row),
        seconds,
        low_s,
        high_s,
        ours=is_ours(row),
        rank=_NAMED.index(row.contestant) if row.contestant in _NAMED else None,
        remark=remark,
    )
