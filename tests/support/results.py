"""A folder with one result of each kind of benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ois_benchmarks.latency.result import (
    Benchmark,
    Cost,
    Definition,
    Figure,
    Identity,
    LatencyResult,
    LatencyRow,
)
from ois_benchmarks.load.pacing import LoadPlan
from ois_benchmarks.load.result import saturation
from ois_benchmarks.roofline import Ceilings
from ois_benchmarks.timing import Timing
from support.load_steps import step_result

SIZE = (854, 480)


MACHINE = {
    "cpu": "Test CPU <1>",
    "cores": 2,
    "threads": 2,
    "date": "2026-01-01T00:00:00+00:00",
    "commit": "c" * 40,
    "versions": {"torch": "2"},
    "allocator": {"MALLOC_TOP_PAD_": "1"},
}


CEILINGS = Ceilings(
    fp32_flops=4e11,
    bf16_flops=8e11,
    bytes_per_s=2e10,
    kernels={},
    cpu="Test CPU <1>",
    cores=2,
    threads=2,
    noisy=False,
    date="2026-01-01",
)


def timing(seconds: float) -> Timing:
    return Timing(seconds, 0.98 * seconds, 1.02 * seconds, 5, 0, 0.0, False, (seconds,))


def figure(seconds: float, **changes: Any) -> Figure:
    return Figure(
        seconds=seconds, low_s=0.98 * seconds, high_s=1.02 * seconds, clicks=11, **changes
    )


def row(contestant: str, label: str, family: str, **changes: Any) -> LatencyRow:
    identity = Identity(
        label=label,
        family=family,
        engine="torch",
        precision="bf16" if "bf16" in contestant else "fp32",
        source="here",
        weights="random",
        sha256="",
        input_size=(1022, 574),
    )
    given = {"contestant": contestant, "width": SIZE[0], "height": SIZE[1], "identity": identity}
    return LatencyRow(**{**given, **changes})


def cost(parameters: int = 94_806_576) -> Cost:
    return Cost(
        parameters=parameters,
        encode_flops=10**12,
        encode_bytes=10**10,
        click_flops=10**11,
        click_bytes=2 * 10**9,
    )


def spc() -> LatencyResult:
    click = Definition.CLICK
    return LatencyResult(
        benchmark=Benchmark.SPC,
        settings={},
        machine=MACHINE,
        rows=(
            row(
                "ois-openvino-bf16",
                "OIS bf16",
                "ois",
                cost=cost(),
                encode=timing(1.5),
                figures={
                    click: figure(0.15),
                    Definition.LOOP: figure(0.3, parts_s={"click": 0.15, "robot": 0.15}),
                },
            ),
            row("hqsam-vitb", "HQ-SAM", "hqsam", cost=cost(), encode=timing(5.3),
                figures={click: figure(0.3)}),
            row("sam-vitb", "SAM", "sam", encode=timing(5.5), figures={click: figure(0.05)},
                noisy=True),
            LatencyRow(contestant="segnext-sax2", width=SIZE[0], height=SIZE[1],
                failed="no checkout", absent=True),
        ),
    )  # fmt: skip


def sat() -> LatencyResult:
    sequential, batched = Definition.SEQUENTIAL, Definition.BATCHED
    return LatencyResult(
        benchmark=Benchmark.SAT,
        settings={},
        machine=MACHINE,
        rows=(
            row(
                "ois-openvino-bf16",
                "OIS bf16",
                "ois",
                figures={sequential: figure(40.0), batched: figure(30.0, batch=16)},
            ),
            row("hqsam-vitb", "HQ-SAM", "hqsam",
                figures={sequential: figure(77.0, projected=True)}),
        ),
    )  # fmt: skip


def load_document() -> dict[str, Any]:
    plan = LoadPlan()
    steps = [step_result(10.0), step_result(20.0), step_result(30.0, failed={"TOO_MUCH": 7})]
    steps[0] = replace(steps[0], stages_ms={"queue": 1.0, "decode": 8.0, "rest": 1.0})
    return {
        "benchmark": "load",
        "schema": 1,
        "complete": False,
        "noisy": True,
        "target": {"kind": "embedded server", "protocol": "grpc"},
        "model": {"network": "tiny", "engine": "onnxruntime", "trained": True, "sha256": "0"},
        "plan": json.loads(json.dumps(plan.to_dict())),
        "images": [],
        "machine": MACHINE,
        "steps": [step.to_dict() for step in steps],
        "saturation": saturation(steps, plan.limit_ms, plan.think.mean_s),
    }


def quality_document() -> dict[str, Any]:
    curve = [{"value": v, "low": v - 0.1, "high": v + 0.02} for v in (0.6, 0.8, 0.93)]
    metric = {"value": 3.25, "low": 3.0, "high": 3.5}
    return {
        "benchmark": "quality",
        "dataset": {"name": "scenes"},
        "model": {"network": "tiny", "engine": "onnxruntime", "sha256": "0", "trained": False},
        "measured_on": MACHINE,
        "metrics": {"noc90": metric, "miou1": curve[0]},
        "curve": curve,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one result of each kind."""
    folder = tmp_path / "results"
    folder.mkdir()
    engine = {"median_s": 0.2, "low_s": 0.19, "high_s": 0.21, "noisy": False}
    documents = {
        "spc": spc().to_dict(),
        "sat": sat().to_dict(),
        "load": load_document(),
        "quality": quality_document(),
        "ceilings": CEILINGS.to_dict(),
        "engines": {
            "benchmark": "engines",
            "network": "vitb",
            "weights": "random",
            "machine": MACHINE,
            "rows": [
                {"contestant": "torch", "width": 28, "height": 14, "click": engine,
                 "encode": engine},
                {"contestant": "gone", "width": 28, "height": 14, "failed": "no library"},
            ],
        },
        "overhead": {
            "benchmark": "serving-overhead",
            "network": "tiny",
            "machine": MACHINE,
            "single": {"gRPC": {"median_ms": 9.0, "queue_ms": 1.0, "decode_ms": 8.0}},
        },
    }  # fmt: skip
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder
