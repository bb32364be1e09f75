"""A few seconds of `ois bench soak`: sessions, a restart, an interruption, and nothing lost.

The long form is the command; its result is benchmarks/results/soak-tiny-test.json.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ois_benchmarks.load.pacing import ThinkTime
from ois_benchmarks.soak import run as run_module
from ois_benchmarks.soak.plan import SoakPlan
from ois_benchmarks.soak.result import defects, table
from ois_benchmarks.soak.run import SoakRun
from ois_client.contract.errors import OutputError

KILL = "kill-segment"  # clicks then wait for the next server
PLAN = SoakPlan(
    hours=6 / 3600,
    clicks=240,
    images=24,
    restarts=1,
    kinds=(KILL,),
    every_s=1,
    think=ThinkTime(median_s=0.2),
    cache_bytes=2**16,  # four of the images
)


def test_a_soak_loses_nothing_by_a_restart_and_an_interruption(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_LATE_S", 600.0)  # for a slow machine
    written: list[Mapping[str, Any]] = []
    failed: list[int] = []

    def save(document: Mapping[str, Any]) -> None:
        written.append(copy.deepcopy(document))
        if not failed and len(written) >= 2 and document["clicks"]["answered"]:
            failed.append(len(written))
            raise OutputError("no space left")

    run = SoakRun(engines, PLAN)
    with pytest.raises(OutputError, match="no space left"):
        run.run(save)
    kept = written[-1]  # once more at the end, with what the last second brought
    assert not kept["complete"]
    assert 0 < kept["clicks"]["answered"] < PLAN.clicks

    again = SoakRun(engines, PLAN)
    again.resume_from(kept)
    again.run(written.append)
    document = again.document
    assert document is written[-1]
    assert document["complete"]
    assert defects(document) == dict.fromkeys(defects(document), 0), document["clicks"]
    # Visits that the interruption ended began again.
    assert PLAN.clicks <= document["clicks"]["answered"] <= PLAN.clicks + 8 * 24
    assert document["latency_ms"]["click"]["count"] == document["clicks"]["answered"]
    assert document["images"] == PLAN.images
    assert document["parts"] == 2
    assert [one["kind"] for one in document["events"]] in (
        ["resumed", KILL],
        [KILL, "resumed"],
    )
    for window in document["windows"]:
        assert window["client"]["memory_bytes"] > 2**20
        assert window["client"]["descriptors"] > 3
    busiest = max(
        document["windows"], key=lambda one: (one["server"]["processes"], one["store_bytes"] or 0)
    )
    assert busiest["server"]["processes"] == 7  # Triton, its front and five Python models
    assert busiest["server"]["memory_bytes"] > 50 * 2**20
    assert busiest["server"]["descriptors"] > 50
    assert 0 < busiest["store_bytes"] <= PLAN.cache_bytes < busiest["shm_bytes"]
    assert "1 restarts" in table(document)
