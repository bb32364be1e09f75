"""`ois bench soak`: sessions come and go for hours, and the server is restarted now and then.

plan ─► visits ─► sessions over gRPC and HTTP ─► embedded server ◄── stop and start, kill -9
                        │                              │
                     windows of latencies          vitals ──► one document, written as it goes
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from ois_benchmarks import machine
from ois_benchmarks.chaos.faults import Scene, inflict
from ois_benchmarks.chaos.result import add_up
from ois_benchmarks.soak.plan import FAULTS, ORDERLY, SoakPlan, Visit
from ois_benchmarks.soak.result import SCHEMA, Histogram, growth, window_json
from ois_benchmarks.soak.scripts import Scripts, Twin
from ois_benchmarks.soak.visitors import Visitors
from ois_benchmarks.soak.vitals import measure, shared_memory
from ois_benchmarks.timing import busy_share
from ois_client.contract.errors import InvalidInput
from ois_client.sessions.async_client import AsyncClient
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer

_RECOVER_WITHIN_S = 300.0
#: HTTP connections that go on asking keep a stopping server alive for so long.
_EXIT_S = 10
_POLL_S = 0.05
#: Visits may begin so much after the planned hours.
_LATE_S = 30.0

Save = Callable[[Mapping[str, Any]], None]


class SoakRun:
    """One run. `document` always holds everything measured so far, JSON-ready."""

    def __init__(self, engines: Path, plan: SoakPlan, repository: Path | None = None) -> None:
        """engines: an engine folder. repository: the model repository, if it is not in there."""
        self._engines, self._plan = engines, plan
        self._repository = repository or engines
        self._visits = plan.visits()
        self._before_s = 0.0  # of the parts before this one
        self._begun = 0
        self._under_way: set[int] = set()
        self._restarts_done = 0
        self._clicks_ms, self._opens_ms = Histogram(), Histogram()
        self._processes: dict[int, psutil.Process] = {}
        self.document: dict[str, Any] = {
            "benchmark": "soak",
            "schema": SCHEMA,
            "complete": False,
            "target": {"kind": "embedded server", "protocols": ["grpc", "http"]},
            "plan": plan.to_dict(),
            "model": {},
            "machine": machine.describe(),
            "others_share": busy_share(),
            "parts": 1,
            "elapsed_s": 0.0,
            "images": 0,
            "events": [],
            "windows": [],
            "left": None,
        }

    def resume_from(self, document: Mapping[str, Any]) -> None:
        """Go on with an interrupted run. Visits that had not ended begin again.

        Raises `InvalidInput` if its settings differ from this run's, or it is damaged.
        """
        for key in ("benchmark", "schema", "target", "plan"):
            if document.get(key) != json.loads(json.dumps(self.document[key])):
                raise InvalidInput(
                    f"the result to resume has another {key}: {document.get(key)}, this run has "
                    f"{self.document[key]}. Give the same options, or choose another output"
                )
        if document.get("complete"):
            raise InvalidInput("the result to resume is complete; choose another output")
        try:
            self._before_s = float(document["elapsed_s"])
            self._begun = int(document["visits"]["begun"])
            self._under_way = set(document["visits"]["under_way"])
            self._clicks_ms = Histogram(document["histograms"]["click"])
            self._opens_ms = Histogram(document["histograms"]["open"])
            self.document["model"] = dict(document["model"])
            self.document["parts"] = int(document["parts"]) + 1
            self.document["windows"] = list(document["windows"])
            self.document["clicks"] = dict(document["clicks"])
            whole = [one for one in document["events"] if one["recovered"] is not None]
            self.document["events"] = [*whole, _event(self._before_s, "resumed")]
            self._restarts_done = len(whole)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"the result to resume is damaged ({type(error).__name__}: {error}); choose "
                "another output"
            ) from error

    def run(
        self,
        save: Save = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Run until all visits have ended. save: gets the document after every window. tell: gets
        a line about each window and each restart.

        Raises `EngineError` if the server cannot be started, or not again after a restart, and
        `InvalidInput` if the engines are not those of the run that is resumed.
        """
        others = len(shared_memory())  # of servers that this process started before
        host = _Host(self._repository, self._plan)
        try:
            with Twin(self._engines, self._plan) as twin:
                asyncio.run(self._run(host, twin, save, tell))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            host.server.stop()
            self.document["left"] = {
                "shm_files": len(shared_memory()) - others,
                "processes": sum(one.is_running() for one in self._processes.values()),
            }
            save(self.document)

    # -- on the event loop -------------------------------------------------------------------

    async def _run(self, host: _Host, twin: Twin, save: Save, tell: Callable[[str], None]) -> None:
        plan = self._plan
        model = await twin.model()
        if (self.document["model"] or model) != model:
            raise InvalidInput(
                f"the run began with {self.document['model']}, the engines now are {model}; choose "
                "another output"
            )
        self.document["model"] = model
        await asyncio.to_thread(host.server.start)
        grpc, http = (
            AsyncClient(url, timeouts=plan.timeouts)
            for url in (host.server.grpc_url, host.server.http_url)
        )
        async with grpc, http:
            visitors = Visitors((grpc, http), Scripts(plan.seed), twin, plan)
            if "clicks" in self.document:
                visitors.resume_from(self.document["clicks"])
            began = time.monotonic() - self._before_s
            async with (
                _ending(self._measure(host, visitors, began, save, tell)),
                asyncio.TaskGroup() as group,
            ):
                restarting = group.create_task(self._restart(host, visitors, began, tell))
                await self._visit(visitors, began)
                restarting.cancel()  # none is due after the last visit
        self.document["complete"] = True

    async def _visit(self, visitors: Visitors, began: float) -> None:
        """All visits at their times, those first that an interruption ended."""
        places = asyncio.Semaphore(self._plan.sessions)

        async def one(number: int, visit: Visit) -> None:
            try:
                await visitors.play(number, visit)
            finally:
                places.release()
            self._under_way.discard(number)

        async with asyncio.TaskGroup() as group:
            for number in sorted(self._under_way):
                await places.acquire()
                group.create_task(one(number, self._visits[number]))
            for number in range(self._begun, len(self._visits)):
                visit = self._visits[number]
                await asyncio.sleep(max(0.0, began + visit.at_s - time.monotonic()))
                await places.acquire()
                if time.monotonic() - began > self._plan.seconds + _LATE_S:
                    places.release()
                    break
                self._under_way.add(number)
                self._begun = number + 1
                group.create_task(one(number, visit))

    async def _restart(
        self, host: _Host, visitors: Visitors, began: float, tell: Callable[[str], None]
    ) -> None:
        times = self._plan.restart_times()
        for number in range(self._restarts_done, len(times)):
            await asyncio.sleep(max(0.0, began + times[number] - time.monotonic()))
            kind = self._plan.kinds[number % len(self._plan.kinds)]
            since = time.monotonic()
            event = _event(since - began, kind)
            self.document["events"].append(event)
            await host.restart(kind)
            while visitors.last_answered <= since:
                host.server.wait(0)  # raises if the server is gone for good
                if time.monotonic() - since > _RECOVER_WITHIN_S:
                    break
                await asyncio.sleep(_POLL_S)
            event["recovered"] = visitors.last_answered > since
            event["recover_s"] = round(time.monotonic() - since, 2)
            minute = (since - began) / 60
            tell(f"{kind} at minute {minute:.1f}: answered after {event['recover_s']} s")

    async def _measure(
        self,
        host: _Host,
        visitors: Visitors,
        began: float,
        save: Save,
        tell: Callable[[str], None],
    ) -> None:
        """A window every so often, and one at the end, when this is cancelled."""
        try:
            while True:
                await asyncio.sleep(self._plan.every_s)
                vitals = await asyncio.to_thread(measure, host.server)
                self._close_window(host, visitors, time.monotonic() - began, vitals)
                await asyncio.to_thread(save, self.document)
                last = self.document["windows"][-1]
                tell(
                    f"minute {last['at_s'] / 60:.1f}: {visitors.counts.answered} clicks, p50 "
                    f"{last['click_ms']['p50']} ms, p99 {last['click_ms']['p99']} ms, server "
                    f"{last['server']['memory_bytes'] / 2**20:.0f} MiB, client "
                    f"{last['client']['memory_bytes'] / 2**20:.0f} MiB"
                )
        finally:
            self._close_window(host, visitors, time.monotonic() - began, measure(host.server))

    def _close_window(
        self, host: _Host, visitors: Visitors, at_s: float, vitals: Mapping[str, Any]
    ) -> None:
        window = visitors.turn()
        self._clicks_ms.add(window.clicks_ms)
        self._opens_ms.add(window.opens_ms)
        for pid in (host.server.pid, host.server.front_pid, *host.server.python_models()):
            if pid is not None and pid not in self._processes:
                with contextlib.suppress(psutil.Error):
                    self._processes[pid] = psutil.Process(pid)
        document = self.document
        document["elapsed_s"] = round(at_s, 1)
        document["windows"].append(window_json(window, at_s, vitals))
        document["visits"] = {
            "planned": len(self._visits),
            "begun": self._begun,
            "under_way": sorted(self._under_way),
        }
        document["images"] = len({one.image for one in self._visits[: self._begun]})
        document["clicks"] = add_up([visitors.counts])
        histograms = {"click": self._clicks_ms, "open": self._opens_ms}
        document["latency_ms"] = {name: one.summary() for name, one in histograms.items()}
        document["histograms"] = {name: one.to_dict() for name, one in histograms.items()}
        ends = [one["at_s"] for one in document["events"]]
        document["growth"] = growth(document["windows"], ends)


def _first(error: BaseException) -> BaseException:
    """The first error of a group of errors, which task groups raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _event(at_s: float, kind: str) -> dict[str, Any]:
    return {"at_s": round(at_s, 1), "kind": kind, "recovered": None, "recover_s": None}


class _Host:
    """The server of a run, at the same ports through all its restarts."""

    def __init__(self, repository: Path, plan: SoakPlan) -> None:
        self._repository = repository
        self.server = EmbeddedServer(
            repository,
            ServerOptions(
                cache_bytes=plan.cache_bytes, longest=plan.longest, exit_timeout_s=_EXIT_S
            ),
        )
        ports = self.server.ports
        self._options = replace(
            self.server.options,
            grpc_port=ports.grpc,
            http_port=ports.http,
            metrics_port=ports.metrics,
        )

    async def restart(self, kind: str) -> None:
        """Raises `EngineError` if the server does not start again, and `InvalidInput` if the
        process to be killed does not run."""
        if kind != ORDERLY:
            scene = Scene(self.server, ())
            await asyncio.to_thread(inflict, FAULTS[kind], scene, 0.0, random.Random(0))
            return
        await asyncio.to_thread(self.server.stop)
        self.server = EmbeddedServer(self._repository, self._options)
        await asyncio.to_thread(self.server.start)


@asynccontextmanager
async def _ending(work: Any) -> AsyncIterator[None]:
    """Run a coroutine beside the block, and cancel it at the end. Its error ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()
