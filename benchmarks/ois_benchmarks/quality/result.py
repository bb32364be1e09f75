"""The result of a quality run: metrics with intervals, and the paired comparison of two runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ois_benchmarks.quality.curves import Curve
from ois_benchmarks.quality.datasets import Dataset
from ois_benchmarks.quality.metrics import (
    RESAMPLES,
    Summary,
    summarise,
    summarise_difference,
)
from ois_benchmarks.quality.records import Log, with_present_precision
from ois_benchmarks.statistics import CONFIDENCE, Estimate
from ois_client.contract.errors import InvalidInput


def result(log: Log, dataset: Dataset, other: Log | None = None) -> dict[str, Any]:
    """The JSON-ready result of a log: metrics, IoU curve, failures, model and machine.

    other: a run to compare with, see `compare`. Raises `InvalidInput` if nothing was measured.
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
            "interval": f"{CONFIDENCE:.0%} percentile bootstrap over objects, {RESAMPLES} draws",
            "failed": "from a failed click on, the IoU before it is repeated",
        },
        "model": log.header["model"],
        "measured_on": log.header["machine"],
        **_summary(summarise(log.ious())),
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
        "other": _summary(summarise(other.ious(both))),
        "difference": _summary(summarise_difference(log.ious(both), other.ious(both))),
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
    return f"{model['network']}, {with_present_precision(model)['engine']}"


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "objects": summary.objects,
        "metrics": {str(metric): e.to_dict() for metric, e in summary.metrics.items()},
        "curve": [estimate.to_dict() for estimate in summary.curve],
    }
