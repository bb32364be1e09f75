"""Quality runs: mean IoU per click, one chart per data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ois_benchmarks import plotting
from ois_benchmarks.quality.curves import curves_svg
from ois_benchmarks.quality.result import curves_of, model_name
from ois_benchmarks.report.inputs import Source
from ois_benchmarks.report.page import Block, Chart, Section

_CAPTION = (
    "The robot user clicks the wrong pixel that lies farthest from the edge of its region. Bands "
    "are 95 % bootstrap intervals over images."
)


def quality_section(sources: Sequence[Source]) -> Section:
    """The curves of each data set, in one chart or as many as the number of colours requires."""
    blocks: list[Block] = []
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        by_dataset.setdefault(source.document["dataset"]["name"], []).append(dict(source.document))
    for dataset, documents in by_dataset.items():
        curves = [one for document in documents for one in curves_of(document)]
        for first in range(0, len(curves), len(plotting.SERIES)):
            shown = curves[first : first + len(plotting.SERIES)]
            best = max(shown, key=lambda one: one.points[-1].value)
            title = (
                f"{dataset}: {best.name} reaches a mean IoU of {best.points[0].value:.3f} after "
                f"one click and {best.points[-1].value:.3f} after {len(best.points)}"
            )
            svg = curves_svg(shown, f"{dataset}: mean IoU per click")
            blocks.append(Chart(svg, title, _CAPTION))
        blocks += [
            f"{model_name(document['model'])}: the weights are random, so its quality means "
            "nothing."
            for document in documents
            if not document["model"]["trained"]
        ]
    return Section("Clicks against IoU", blocks)
