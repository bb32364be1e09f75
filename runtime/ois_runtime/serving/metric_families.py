"""Our metrics at Triton's Prometheus endpoint. Models that create the same family share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from ois_runtime.serving.metrics import (
    BUCKETS,
    COUNTERS,
    DECODES,
    GAUGES,
    HISTOGRAMS,
    HOST_BYTES,
    REQUESTS,
)

_DESCRIPTIONS = {
    **{name: text for name, (text, _) in {**COUNTERS, **GAUGES}.items()},
    **HISTOGRAMS,
    **dict((REQUESTS, DECODES, HOST_BYTES)),
}

#: The metrics of the models behind `ois_oneshot`.
ONESHOT_METRICS = (REQUESTS[0], DECODES[0])


class TritonMetrics:
    """`Metrics` published through Triton. names: those that the model will use."""

    def __init__(self, names: tuple[str, ...] = tuple(_DESCRIPTIONS)) -> None:
        self._families = {name: _family(name) for name in names}
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        for name in self._families.keys() - {REQUESTS[0]}:
            self._metric(name, {})  # so that each exists, at zero, before the first request

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._metric(name, labels).increment(value)

    def set(self, name: str, value: float) -> None:
        self._metric(name, {}).set(value)

    def observe(self, name: str, value: float) -> None:
        self._metric(name, {}).observe(value)

    def _metric(self, name: str, labels: Mapping[str, str]) -> Any:
        key = name, tuple(sorted(labels.items()))
        if key not in self._metrics:
            more = {"buckets": BUCKETS} if name in HISTOGRAMS else {}
            self._metrics[key] = self._families[name].Metric(labels=dict(labels), **more)
        return self._metrics[key]


def _family(name: str) -> Any:
    family = pb_utils.MetricFamily
    kind = family.COUNTER
    if name in GAUGES:
        kind = family.GAUGE
    elif name in HISTOGRAMS:
        kind = family.HISTOGRAM
    return family(name=name, description=_DESCRIPTIONS[name], kind=kind)
