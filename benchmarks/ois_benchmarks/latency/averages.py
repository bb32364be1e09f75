"""SPC as papers average it: the mean over clicks, without the encode and with it spread.

    online      the mean of the clicks' times; the encode is left out. The OIS paper defines SPC as
                "average time taken per click"
    20-SPC      the encode plus 20 clicks, divided by 20, as Inter2Former and later papers have it

The `click` column elsewhere is the median, which one slow click does not move.
"""

from __future__ import annotations

from ois_benchmarks.latency.result import Definition, LatencyRow

#: The clicks over which papers spread an encode.
SPREAD = 20

MEANINGS = (
    ("online", "the mean of the same clicks, without the encode; `click` is their median"),
    (f"{SPREAD}-SPC", f"the mean encode and {SPREAD} mean clicks, divided by {SPREAD}"),
)


def online_s(row: LatencyRow) -> float | None:
    """The mean seconds per click. None if the samples of the clicks are not known."""
    found = row.figures.get(Definition.CLICK) or row.figures.get(Definition.SESSION)
    if found is None or found.timing is None or not found.timing.samples_s:
        return None
    return _mean(found.timing.samples_s)


def spread_s(row: LatencyRow) -> float | None:
    """Seconds per click with the encode spread over `SPREAD` clicks; see `online_s`.

    A network that does not encode separately has nothing to spread.
    """
    click = online_s(row)
    if click is None:
        return None
    if row.encode is None:
        return click
    return _mean(row.encode.samples_s) / SPREAD + click


def _mean(samples: tuple[float, ...]) -> float:
    return sum(samples) / len(samples)
