"""A short run of `ois bench chaos`: a few kills, stops, bad connections and missing resources.

The long form is the command; its result is benchmarks/results/chaos-tiny-test.json.
"""

from __future__ import annotations

from pathlib import Path

from ois_benchmarks.chaos.faults import Fault
from ois_benchmarks.chaos.result import defects
from ois_benchmarks.chaos.run import ChaosPlan, ChaosRun
from ois_benchmarks.load.pictures import read_pictures

FAULTS = (
    *(Fault.KILL_SERVER, Fault.KILL_FRONT, Fault.KILL_SEGMENT),
    *(Fault.STOP_SERVER, Fault.STOP_FRONT, Fault.STOP_SEGMENT),
    *(Fault.DROP, Fault.TRUNCATE, Fault.DUPLICATE, Fault.HALF_OPEN),
    *(Fault.DESCRIPTORS, Fault.MEMORY),
)


def test_no_fault_costs_a_click(engines: Path) -> None:
    plan = ChaosPlan(faults=FAULTS, hold_s=0.3, pause_s=0.2, clicks=4, seed=1)
    run = ChaosRun(engines, read_pictures(), plan)
    run.run()
    document = run.document
    assert document["complete"]
    assert defects(document) == dict.fromkeys(defects(document), 0), str(document["clicks"])
    assert sorted(one["fault"] for one in document["faults"]) == sorted(FAULTS)
    by_kind = {one["fault"]: one for one in document["faults"]}
    for fault in ("kill-server", "kill-front", "kill-segment"):
        assert by_kind[fault]["restarts"] == 1, fault
    # Every user had an answer after every fault, and the kills were felt.
    assert document["clicks"]["answered"] >= plan.users * len(FAULTS)
    assert document["clicks"]["failed"]["SERVER_UNAVAILABLE"] > 0
