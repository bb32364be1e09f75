"""The result of `ois bench ablation`: a table with intervals over seeds and objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.machine import describe
from ois_benchmarks.quality.metrics import RESAMPLES, Kind, Metric
from ois_benchmarks.statistics import CONFIDENCE, Estimate, interval
from ois_benchmarks.table import Column, Table, TableRow

if TYPE_CHECKING:  # these import torch, which a report of finished runs does not need
    from ois_benchmarks.ablation.run import AblationPlan, NetworkVariant

#: The columns of the paper's Tables 4 and 5. NoF95 in both readings (see `quality.metrics`).
SHOWN = (
    Metric.NOC90,
    Metric.NOC95,
    Metric.MIOU1,
    Metric.MIOU5,
    Metric.NOF95_SEGNEXT,
    Metric.NOF95_NEVER,
)

Values = NDArray[np.float64]


def result(plan: AblationPlan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of `ois bench ablation`, JSON-ready."""
    from ois_benchmarks.ablation.evaluation import evaluation

    return {
        "benchmark": "ablation",
        "checkpoint": plan.trunk.stem,
        "start": str(plan.start),
        "train_data": list(plan.train_data),
        "recipe": plan.recipe.to_dict(),
        **compared(
            rows, plan.variants, plan.seeds,
            data=evaluation(plan.data, plan.objects).label, clicks=plan.clicks,
            longest=plan.longest,
        ),
    }  # fmt: skip


def compared(
    rows: list[dict[str, Any]],
    variants: Sequence[NetworkVariant],
    seeds: tuple[int, ...],
    *,
    data: str,
    clicks: int,
    longest: int,
) -> dict[str, Any]:
    """Per variant, each metric and its difference from the first variant; and all IoUs.

    Differences are taken seed by seed and object by object. data: the name of the data set.
    """
    table: list[dict[str, Any]] = []
    reference = _ious_of(rows, variants[0].name, seeds)
    for variant in variants:
        mine = _ious_of(rows, variant.name, seeds)
        entry: dict[str, Any] = {"variant": variant.name, "label": variant.label}
        entry["row"] = variant.row
        entry["parameters"] = next(r["parameters"] for r in rows if r["variant"] == variant.name)
        for metric in SHOWN:
            values, base = _per_object(metric, mine), _per_object(metric, reference)
            if metric.is_count:
                values, base = values * values.shape[1], base * base.shape[1]
            entry[metric.value] = two_level(values).to_dict()
            entry[f"{metric.value}_seeds"] = values.mean(axis=1).round(4).tolist()
            if variant is not variants[0]:
                entry[f"{metric.value}_difference"] = two_level(values - base).to_dict()
        table.append(entry)
    return {
        "data": data,
        "seeds": list(seeds),
        "objects": reference.shape[1],
        "clicks": clicks,
        "longest": longest,
        "confidence": CONFIDENCE,
        "machine": describe(),
        "table": table,
        "runs": [{key: row[key] for key in ("variant", "seed", "ious")} for row in rows],
    }


def two_level(values: Values) -> Estimate:
    """The mean of values (S, N) over S seeds and N objects; the bootstrap resamples both.

    With three seeds the interval is wide, and rightly so: resampling objects alone would not
    show how much another training run differs.
    """
    seeds, objects = values.shape
    generator = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        rows = generator.integers(seeds, size=seeds)
        columns = generator.integers(objects, size=objects)
        means[number] = values[np.ix_(rows, columns)].mean()
    low, high = interval(means)
    return Estimate(float(values.mean()), float(low), float(high))


def table_of(document: Mapping[str, Any]) -> Table:
    """One line per variant. Differences whose interval excludes zero are bold.

    Shows the metrics that the document has: those of earlier versions had others.
    """
    shown = [metric for metric in Metric if metric in document["table"][0]]
    columns = [Column("variant", number=False), Column("parameters")]
    columns += [Column(metric.label) for metric in shown]
    rows = [
        TableRow(
            [
                entry["label"],
                f"{entry['parameters'] / 1e6:.2f} M",
                *(cell(entry, metric) for metric in shown),
            ]
        )
        for entry in document["table"]
    ]
    note = (
        f"{document['objects']} objects of {described(document)}, {len(document['seeds'])} seeds, "
        f"{document['clicks']} clicks per object. In brackets: the difference from the default and "
        "its 95 % interval over seeds and objects; bold if the interval excludes zero."
    )
    if any(metric.is_count for metric in shown):
        note += (
            " NoF95 counts objects, as a mean over seeds. (SegNext): NoC is "
            f"{document['clicks']}, which includes a success at the last click. (never): 95 % is "
            "not reached."
        )
    return Table("", columns, rows, [note])


def described(document: Mapping[str, Any]) -> str:
    """The data set of a result, for readers."""
    data = str(document.get("data", "procedural scenes"))
    return "the validation scenes" if data == "procedural scenes" else data


def cell(entry: Mapping[str, Any], metric: Metric) -> str:
    """A metric of a row of the table, with its difference from the default if it has one."""
    digits = 1 if metric.is_count else 3 if metric.kind is Kind.IOU else 2
    text = f"{entry[metric.value]['value']:.{digits}f}"
    difference = entry.get(f"{metric.value}_difference")
    if difference is None:
        return text
    estimate = Estimate(**difference)
    low, high = f"{estimate.low:+.{digits}f}", f"{estimate.high:+.{digits}f}"
    change = f"{estimate.value:+.{digits}f}, {low} to {high}"
    return f"{text} (**{change}**)" if estimate.excludes_zero else f"{text} ({change})"


def _ious_of(rows: Iterable[dict[str, Any]], variant: str, seeds: tuple[int, ...]) -> Values:
    """The IoUs of a variant: (S, N, K), by seed, object and click."""
    found = {row["seed"]: row["ious"] for row in rows if row["variant"] == variant}
    return np.array([found[seed] for seed in seeds], dtype=np.float64)


def _per_object(metric: Metric, ious: Values) -> Values:
    """The metric of every object: (S, N, K) -> (S, N)."""
    return np.stack([metric.per_object(seed) for seed in ious])
