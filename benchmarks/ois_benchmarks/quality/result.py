"""The result of a quality run: metrics with intervals, and the paired comparison of two runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ois_benchmarks.quality.bootstrap import RESAMPLES, bootstrap_means, bootstrap_ratios
from ois_benchmarks.quality.boundary import NEAR, SHARE
from ois_benchmarks.quality.curves import Curve
from ois_benchmarks.quality.datasets import Dataset
from ois_benchmarks.quality.metrics import summarise, summarise_difference
from ois_benchmarks.quality.objects import by_size, by_thinness, worst
from ois_benchmarks.quality.order import Order
from ois_benchmarks.quality.records import Log, with_present_precision
from ois_benchmarks.quality.safety import ClickMetric, click_ratios
from ois_benchmarks.statistics import CONFIDENCE, Estimate
from ois_client.contract.errors import InvalidInput

#: Keys of the boundary IoUs in results, in the order of `Boundary.distances`.
BOUNDARIES = (f"{NEAR} px", f"{100 * SHARE:.0f} % of the diagonal")


def result(
    log: Log, dataset: Dataset, other: Log | None = None, *, order: Order = Order.IOU
) -> dict[str, Any]:
    """The JSON-ready result of a log: metrics, curves, clicks, sizes, failures, model and machine.

    other: a run to compare with, see `compare`. order: of the worst objects. Raises `InvalidInput`
    if nothing was measured.
    """
    measured = log.measured
    if not measured:
        raise InvalidInput(
            f"no object of {dataset.label} could be measured ({len(log.skipped)} skipped); the "
            f"reasons are in {log.path.name}"
        )
    failed = [(r.name, r.failure) for r in measured.values() if r.failure is not None]
    document = {
        "benchmark": "quality",
        "dataset": {**dataset.describe(), "without_partner": dict(dataset.lost)},
        "protocol": {
            "user": "robot of RITM, SimpleClick and SegNext",
            "clicks": log.clicks,
            "interval": f"{CONFIDENCE:.0%} percentile bootstrap over images, {RESAMPLES} draws",
            "failed": "from a failed click on, the IoU before it is repeated",
            "later_clicks": "after the first of each object, as far as they were answered; lost: "
            "by more than 5 points of IoU",
            "boundary": "Boundary IoU of Cheng et al. 2021, null for logs of earlier versions",
        },
        "model": log.header["model"],
        "measured_on": log.header["machine"],
        **_summary(log, list(measured)),
        "by_size": by_size(log),
        "by_thinness": by_thinness(log),
        "worst": worst(log, order),
        "worst_order": str(order),
        "seconds": round(sum(record.seconds for record in measured.values()), 1),
        "failed": [{"name": name, **asdict(failure)} for name, failure in failed],
        "skipped": [{"name": record.name, "reason": record.skipped} for record in log.skipped],
    }
    if other is not None:
        document["compared"] = compare(log, other)
    return document


def check_comparable(dataset: Dataset, clicks: int, other: Log) -> None:
    """Raise `InvalidInput` unless `other` measured the same objects with the same clicks limit."""
    mine, theirs = dataset.describe(), other.header["dataset"]
    if theirs != mine or other.clicks != clicks:
        raise InvalidInput(
            f"{other.path} measured {theirs} with {other.clicks} clicks, this run measures {mine} "
            f"with {clicks}; only runs on the same objects can be compared. Measure it again"
        )


def compare(log: Log, other: Log) -> dict[str, Any]:
    """This run minus `other`, object by object.

    Objects that only one of them measured are listed under "in_one_run_only". Raises
    `InvalidInput` if there is no common object or if the targets differ.
    """
    mine, theirs = log.measured, other.measured
    both = [name for name in mine if name in theirs]
    alone = sorted(set(mine) ^ set(theirs))
    if not both:
        raise InvalidInput(
            f"{log.path} and {other.path} have no measured object in common; only runs on the "
            "same objects can be compared"
        )
    differing = [
        name for name in both
        if (mine[name].width, mine[name].height, mine[name].area)
        != (theirs[name].width, theirs[name].height, theirs[name].area)
    ]  # fmt: skip
    if differing:
        raise InvalidInput(
            f"{other.path} measured other targets than this run under the same names (first: "
            f"{differing[0]}); measure it again with this version"
        )
    return {
        "model": other.header["model"],
        "other": _summary(other, both),
        "difference": _summary(log, both, other),
        "in_one_run_only": alone,
    }


def curves_of(document: dict[str, Any]) -> list[Curve]:
    """The curve of a result, and that of the run it is compared with if there is one."""
    runs = [(document["model"], document["curve"])]
    if compared := document.get("compared"):
        runs.append((compared["model"], compared["other"]["curve"]))
    return [
        Curve(model_name(model), [Estimate(**point) for point in curve]) for model, curve in runs
    ]


def model_name(model: dict[str, Any]) -> str:
    """The name of a model in tables and charts."""
    zoom = ", zoom" if model.get("zoom") else ""
    return f"{model['network']}, {with_present_precision(model)['engine']}{zoom}"


def _summary(log: Log, names: list[str], less: Log | None = None) -> dict[str, Any]:
    """All estimates for these objects. less: another run, whose values are subtracted."""
    records = [log.measured[name] for name in names]
    images = [record.image for record in records]
    if less is None:
        summary = summarise(log.ious(names), images)
        clicks = bootstrap_ratios(click_ratios(records), images)
    else:
        summary = summarise_difference(log.ious(names), less.ious(names), images)
        others = click_ratios(less.measured[name] for name in names)
        clicks = bootstrap_ratios(click_ratios(records), images, others)
    return {
        "objects": summary.objects,
        "images": len(set(images)),
        "metrics": {str(metric): e.to_dict() for metric, e in summary.metrics.items()},
        "curve": [estimate.to_dict() for estimate in summary.curve],
        "clicks": {
            str(metric): estimate.to_dict() if estimate else None
            for metric, estimate in zip(ClickMetric, clicks, strict=True)
        },
        "boundary": _boundary(log, names, images, less),
    }


def _boundary(
    log: Log, names: list[str], images: list[str], less: Log | None
) -> dict[str, list[dict[str, float]]] | None:
    """Mean boundary IoU after each click, by distance; None if a log does not hold it."""
    values = log.boundary(names)
    if less is not None:
        others = less.boundary(names)
        values = None if values is None or others is None else values - others
    if values is None:
        return None
    means = bootstrap_means(np.reshape(values, (len(values), -1)), images)
    return {
        name: [mean.to_dict() for mean in means[number :: len(BOUNDARIES)]]
        for number, name in enumerate(BOUNDARIES)
    }
