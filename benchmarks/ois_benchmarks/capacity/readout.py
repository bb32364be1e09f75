"""What is read out of the simulation: clusters of several sizes, loads, memories, and a loss.

Every number comes from at least `clicks` simulated clicks, so that its p99 is steady: small
clusters are simulated for longer, and a loss in them several times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ois_benchmarks.capacity.hashing import maglev, moved
from ois_benchmarks.capacity.machines import ReplicaOptions
from ois_benchmarks.capacity.service import ServiceTimes
from ois_benchmarks.capacity.simulation import Cluster, Loss, Outcome, Seen, simulate
from ois_benchmarks.capacity.statistics import over_time, suffering, summary
from ois_benchmarks.capacity.workload import Workload
from ois_client.contract.errors import InvalidInput

SCHEMA = 1
#: Sessions' lengths before anything is counted.
_WARM_UP = 2.0
#: Before a loss, and after it, in seconds; the replica is away for the first part of the latter.
_BEFORE_S, _AFTER_S, _DOWN_S = 10.0, 40.0, 20.0
_STEP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    """What to simulate. Raises `InvalidInput` for values out of range.

    sizes: numbers of replicas. load: share of a replica's time that clicks and encodes take,
    without those that lost features cost. loads, balances, stores: the values of the other tables;
    stores are multiples of the images in use at a replica. store_bytes: of each replica, in all
    tables but that one. middle: replicas in the other tables. clicks: simulated at least, per row;
    clicks_per_step: in each 2 s of a loss.
    """

    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    load: float = 0.5
    loads: tuple[float, ...] = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
    balances: tuple[int, ...] = (150, 200, 300, 400, 1000)
    stores: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
    middle: int = 100
    store_bytes: int = 2 * 2**30
    balance_percent: int = 200
    parallel: float = 1.0
    workload: Workload = field(default_factory=Workload)
    clicks: int = 100_000
    clicks_per_step: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 2 or max(self.sizes) > 20_000:
            raise InvalidInput(f"got the sizes {self.sizes}; expected numbers from 2 to 20,000")
        for name, value, low, high in (
            ("load", self.load, 0.01, 0.95),
            ("the bytes of a store", self.store_bytes, 1, 2**50),
            ("balance in percent", self.balance_percent, 100, 100_000),
            ("requests at full speed", self.parallel, 0.05, 64),
            ("simulated clicks", self.clicks, 1000, 10**8),
        ):
            if not low <= value <= high:
                raise InvalidInput(f"got {value:g} for {name}; expected {low:g} to {high:g}")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "workload": self.workload.to_dict()}


class Readout:
    """Runs the plan. `document` holds what is done so far, JSON-ready."""

    def __init__(
        self, times: ServiceTimes, plan: CapacityPlan, source: Mapping[str, Any] | None = None
    ) -> None:
        """source: where the service times come from, for the result."""
        self._times, self._plan = times, plan
        work = plan.workload
        self._per_second = plan.parallel * plan.load / times.busy_s(work.clicks_per_session)
        self.document: dict[str, Any] = {
            "benchmark": "capacity",
            "schema": SCHEMA,
            "complete": False,
            "source": dict(source or {}),
            "service": times.summary(),
            "plan": plan.to_dict(),
            "session": {
                "clicks": round(work.clicks_per_session, 2),
                "seconds": round(work.session_s, 1),
                "pause_s": round(work.think.mean_s, 3),
            },
            "sizes": [],
            "loads": [],
            "balances": [],
            "stores": [],
            "losses": [],
        }

    def run(
        self,
        save: Callable[[Mapping[str, Any]], None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        plan, document = self._plan, self.document
        options = ReplicaOptions(
            store_images=max(1, plan.store_bytes // self._times.image_bytes), parallel=plan.parallel
        )
        usual = Cluster(replicas=plan.middle, options=options, balance_percent=plan.balance_percent)

        def add(table: str, name: str, value: float, cluster: Cluster, load: float) -> None:
            began = time.perf_counter()
            document[table].append({name: value, **self._row(cluster, load)})
            row = document[table][-1]
            tell(
                f"{table}: {name} {value:g}: p50 {row['clicks']['p50']:.0f} ms, p99 "
                f"{row['clicks']['p99']:.0f} ms, hits {row['clicks']['hit_share']:.1%} "
                f"({time.perf_counter() - began:.0f} s)"
            )
            save(document)

        for size in plan.sizes:
            add("sizes", "replicas", size, replace(usual, replicas=size), plan.load)
        for load in plan.loads:
            add("loads", "load", load, usual, load)
        for balance in plan.balances:
            add("balances", "percent", balance, replace(usual, balance_percent=balance), plan.load)
        for share in plan.stores:
            small = replace(options, store_images=max(1, round(share * self._in_use())))
            add("stores", "of_images_in_use", share, replace(usual, options=small), plan.load)
        for size in plan.sizes:
            document["losses"].append(self._loss(replace(usual, replicas=size)))
            row = document["losses"][-1]
            lost = {name: one["suffers_s"] for name, one in row["lost"].items()}
            tell(
                f"losses: {size} replicas: hits suffer for {lost['hit_share']:g} s, p99 for "
                f"{lost['p99_ms']:g} s"
            )
            save(document)
        document["complete"] = True
        save(document)

    def _in_use(self) -> float:
        """Images in use at a replica, on average: sessions that begin there, times how long each
        takes."""
        return self._per_second * self._plan.workload.session_s

    def _row(self, cluster: Cluster, load: float) -> dict[str, Any]:
        plan, work = self._plan, self._plan.workload
        per_second = cluster.replicas * self._per_second * load / plan.load
        warm_up_s = _WARM_UP * work.session_s
        measured_s = max(20.0, plan.clicks / (per_second * work.clicks_per_session))
        sessions = work.sessions(per_second, warm_up_s + measured_s, plan.seed)
        outcome = simulate(
            cluster,
            self._times,
            sessions,
            warm_up_s=warm_up_s,
            until_s=warm_up_s + measured_s,
            seed=plan.seed,
        )
        return {
            "people": round(per_second * work.session_s),
            "clicks_per_second": round(per_second * work.clicks_per_session, 1),
            "images_in_use_per_replica": round(per_second * work.session_s / cluster.replicas, 1),
            "images_stored_per_replica": cluster.options.store_images,
            "clicks": summary(outcome.clicks),
            "opens": summary(outcome.opens),
            "evictions_per_second": round(outcome.evictions / (warm_up_s + measured_s), 2),
            "busiest_replica": round(float(outcome.sent.max() / max(1.0, outcome.sent.mean())), 3),
        }

    def _loss(self, cluster: Cluster) -> dict[str, Any]:
        plan, work = self._plan, self._plan.workload
        per_second = cluster.replicas * self._per_second
        warm_up_s = _WARM_UP * work.session_s
        at_s = warm_up_s + _BEFORE_S
        end_s = at_s + _AFTER_S
        per_step = per_second * work.clicks_per_session * _STEP_S
        outcomes = [
            simulate(
                cluster,
                self._times,
                work.sessions(per_second, end_s, plan.seed + number),
                warm_up_s=warm_up_s,
                until_s=end_s,
                loss=Loss(at_s=at_s, down_s=_DOWN_S, replica=number % cluster.replicas),
                seed=plan.seed + number,
            )
            for number in range(max(1, math.ceil(plan.clicks_per_step / per_step)))
        ]
        outcome = _merged(outcomes)
        names = [f"replica-{n}" for n in range(cluster.replicas)]
        after = np.arange(1, cluster.replicas, dtype=np.int32)[maglev(names[1:])]
        own, others = moved(maglev(names), after, 0)
        return {
            "replicas": cluster.replicas,
            "down_s": _DOWN_S,
            "runs": len(outcomes),
            "images_moved": round(own, 5),
            "images_moved_without_need": round(others, 5),
            "repeated_requests": round(outcome.repeated / len(outcomes), 1),
            "lost": suffering(outcome, at_s, at_s, at_s + _DOWN_S, _STEP_S),
            "back": suffering(outcome, at_s, at_s + _DOWN_S, end_s, _STEP_S),
            "over_time": [
                {**one, "at_s": round(one["at_s"] - at_s, 3)}
                for one in over_time(outcome, at_s - _BEFORE_S, end_s, _STEP_S)
            ],
        }


def _merged(outcomes: Sequence[Outcome]) -> Outcome:
    """Outcomes of runs that differ by their seed, as if they were one."""

    def together(parts: Sequence[Seen]) -> Seen:
        return Seen(
            np.concatenate([one.due_s for one in parts]),
            np.concatenate([one.ms for one in parts]),
            np.concatenate([one.hit for one in parts]),
            sum(one.failed for one in parts),
        )

    return Outcome(
        together([one.opens for one in outcomes]),
        together([one.clicks for one in outcomes]),
        sum(one.evictions for one in outcomes),
        sum(one.repeated for one in outcomes),
        np.sum([one.sent for one in outcomes], axis=0),
    )
