"""Quality runs: mean IoU per click in one chart per data set, thinness, and the worst objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ois_benchmarks import plotting
from ois_benchmarks.quality.curves import curves_svg
from ois_benchmarks.quality.details import thinness_table, worst_table
from ois_benchmarks.quality.result import curves_of, model_name
from ois_benchmarks.report.inputs import Source
from ois_benchmarks.report.page import Block, Chart, Photo, Section

_CAPTION = (
    "The robot user clicks the wrong pixel that lies farthest from the edge of its region. Bands "
    "are 95 % bootstrap intervals over images."
)
_PICTURES = "From the left: the true mask, and the masks after the robot's clicks."


def quality_section(sources: Sequence[Source]) -> Section:
    """The curves of each data set, in one chart or as many as the number of colours requires, and
    the objects of each run.
    """
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
    for source in sources:
        blocks += _objects(source)
    return Section("Clicks against IoU", blocks)


def _objects(source: Source) -> Iterator[Block]:
    """Mean IoU by thinness and the worst objects, as far as the version that measured has them."""
    document = dict(source.document)
    found = [table for table in (thinness_table(document), worst_table(document)) if table]
    if not found:
        return
    what = f"{model_name(document['model'])} on {document['dataset']['name']}"
    yield f"{what}, {document['protocol']['clicks']} clicks per object ({source.name}):"
    yield from found
    if source.folder is not None and (name := document.get("pictures")):
        path = source.folder / Path(name).name
        if path.is_file():
            yield Photo(path, f"{what}: the worst objects", _PICTURES)
