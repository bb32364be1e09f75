"""Results of `ois bench spc`, `sat` and `engines` as pictures: one a definition and picture size.

Definitions are never mixed: each has a picture of its own, with what it means below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ois_benchmarks.latency.result import Benchmark, Definition, Figure, LatencyResult, Row
from ois_benchmarks.report.bars import Bar, bars, headline
from ois_benchmarks.report.parts import Picture
from ois_benchmarks.report.roofline import Work
from ois_benchmarks.roofline import PRECISIONS

OURS = "ois"
#: Peers that headlines always name: those of the paper's Table 3 as their authors run them, and
#: SAM's own.
NAMED = ("segnext-sax2", "hqsam-vitb", "sam-vitb", "simpleclick-448")

_QUANTITIES = {
    Definition.CLICK: "A click",
    Definition.LOOP: "A click of the whole evaluation loop",
    Definition.SESSION: "A click through the server",
    Definition.SEQUENTIAL: "256 clicks one after the other",
    Definition.BATCHED: "256 clicks in batches",
    Definition.AUTOMATIC: "SAM's automatic mask generator",
}
_ENCODE = "once for each picture, before its first click; a network without this step is not here"


def device(result: LatencyResult) -> str:
    """Where the contestants ran, unless a row says otherwise."""
    return str(result.settings.get("device", "cpu"))


def sizes(result: LatencyResult) -> list[tuple[int, int]]:
    """Of the pictures, in the order of the rows."""
    return list(dict.fromkeys((row.width, row.height) for row in result.rows))


def rows_at(result: LatencyResult, size: tuple[int, int]) -> list[Row]:
    return [row for row in result.rows if (row.width, row.height) == size]


def label(row: Row) -> str:
    return row.identity.label if row.identity else row.contestant


def is_ours(row: Row) -> bool:
    if row.identity is None:
        return row.contestant.startswith(OURS)
    return row.identity.family == OURS


def pictures(result: LatencyResult) -> Iterator[Picture]:
    """For each picture size: the encode (SPC), and every definition that any row was timed by."""
    for size in sizes(result):
        rows = rows_at(result, size)
        on = f"on {size[0]}x{size[1]}"
        if result.benchmark is Benchmark.SPC and any(row.encode for row in rows):
            chart = [_encode_bar(row) for row in rows if row.encode]
            title = headline(chart, f"An encode {on}")
            yield Picture(bars(chart, "an encode"), title, f"encode: {_ENCODE}.")
        failed = [_failed_bar(row) for row in rows if row.failed is not None]
        for definition in Definition:
            timed = [row for row in rows if definition in row.figures]
            if timed:
                chart = [_bar(row, row.figures[definition]) for row in timed] + failed
                failed = []  # said once, below the first picture
                what = _QUANTITIES[definition]
                title = headline(chart, f"{what} {on}")
                caption = f"{definition.value}: {definition.meaning}."
                yield Picture(bars(chart, definition.value), title, caption)


def parts(result: LatencyResult) -> list[tuple[str, Mapping[str, float]]]:
    """Label, and ms by part, of every `loop` that was taken apart, the fastest first."""
    found = [
        (
            f"{label(row)}, {row.width}x{row.height}",
            {name: 1e3 * s for name, s in row.figures[Definition.LOOP].parts_s.items()},
        )
        for row in result.rows
        if Definition.LOOP in row.figures and row.figures[Definition.LOOP].parts_s
    ]
    return sorted(found, key=lambda one: sum(one[1].values()))


def ran_on_gpu(engine: str) -> bool:
    """Of `Identity.engine`, which names the device where it is not the CPU."""
    return "cuda" in engine or engine.startswith("tensorrt")


def work(result: LatencyResult, size: tuple[int, int]) -> list[Work]:
    """Clicks and encodes in process, whose FLOPs and bytes were counted, on the run's device: what
    ran on the CPU beside a GPU's contestants lies under another roof.
    """
    found = []
    on_gpu = device(result) != "cpu"
    for row in rows_at(result, size):
        if row.cost is None or row.identity is None or row.identity.precision not in PRECISIONS:
            continue
        if on_gpu != ran_on_gpu(row.identity.engine):
            continue
        cost, precision = row.cost, row.identity.precision
        click = row.figures.get(Definition.CLICK)
        seconds = {
            "click": (click.seconds if click else None, cost.click_flops, cost.click_bytes),
            "encode": (
                row.encode.median_s if row.encode and click else None,
                cost.encode_flops,
                cost.encode_bytes,
            ),
        }
        found += [
            Work(label(row), what, is_ours(row), precision, took, flops, moved)
            for what, (took, flops, moved) in seconds.items()
            if took and flops and moved
        ]
    return found


def engine_pictures(document: Mapping[str, Any]) -> Iterator[Picture]:
    """Of `ois bench engines`: the click and the encode at each network size."""
    rows = document["rows"]
    for width, height in dict.fromkeys((row["width"], row["height"]) for row in rows):
        here = [row for row in rows if (row["width"], row["height"]) == (width, height)]
        for what, name in (("click", "A click"), ("encode", "An encode")):
            chart = [_engine_bar(row, what) for row in here]
            title = headline(chart, f"{name} of {document['network']} at {width}x{height}")
            caption = f"The {what} engine alone, on arrays that are in memory."
            yield Picture(bars(chart, f"{what} engine"), title, caption)


def _engine_bar(row: Mapping[str, Any], what: str) -> Bar:
    if "failed" in row:
        return Bar(row["contestant"], ours=True, failed=row["failed"])
    timing = row[what]
    return Bar(
        row["contestant"], timing["median_s"], timing["low_s"], timing["high_s"], ours=True,
        remark="noisy" if timing["noisy"] else "",
    )  # fmt: skip


def _bar(row: Row, figure: Figure) -> Bar:
    remarks = [
        f"projected ({figure.clicks} clicks)" if figure.projected else "",
        f"{figure.batch} at once" if figure.batch > 1 else "",
        "noisy" if row.noisy else "",
    ]
    remark = ", ".join(filter(None, remarks))
    return _named(row, figure.seconds, figure.low_s, figure.high_s, remark)


def _encode_bar(row: Row) -> Bar:
    timing = row.encode
    if timing is None:
        raise ValueError("a row without an encode has no bar")
    return _named(row, timing.median_s, timing.low_s, timing.high_s, "noisy" if row.noisy else "")


def _failed_bar(row: Row) -> Bar:
    return Bar(label(row), ours=is_ours(row), failed=row.failed)


def _named(row: Row, seconds: float, low_s: float, high_s: float, remark: str) -> Bar:
    return Bar(
        label(row),
        seconds,
        low_s,
        high_s,
        ours=is_ours(row),
        rank=NAMED.index(row.contestant) if row.contestant in NAMED else None,
        remark=remark,
    )
