"""`ois bench load`: many users click on one server, until it no longer keeps up.

    plan ─► next_step ─► users on an event loop ─► one entry per step ─► saturation
               ▲                                           │
               └──────────────── results so far ───────────┘

The load generator is one process with one event loop. If it shares its cores with the server, as
with an embedded server, the result describes the whole machine. `late_ms` shows whether the
generator itself could not keep up.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from ois_benchmarks import machine
from ois_benchmarks.load.meter import Meter
from ois_benchmarks.load.pacing import LoadPlan, Pace, Step, next_step
from ois_benchmarks.load.pictures import LoadPicture
from ois_benchmarks.load.result import SCHEMA, StepResult, saturation
from ois_benchmarks.load.users import perform
from ois_benchmarks.timing import QUIET_SHARE, busy_share
from ois_client.contract.errors import InvalidInput, ServerUnavailable
from ois_client.contract.transport import Transport
from ois_client.sessions.async_client import AsyncClient

_WARM_UP_CLICKS = 12
_TICK_S = 0.5
_THREADS = 64  # for calls of transports without an event loop, such as `local:`


class Observer(Protocol):
    """Is informed about the progress of a run."""

    def began(self, step: Step) -> None: ...

    def tick(self, step: Step, meter: Meter) -> None: ...

    def ended(self, result: StepResult) -> None: ...


class LoadRun:
    """One run. `document` always holds everything measured so far, JSON-ready."""

    def __init__(
        self,
        url: str | Transport,
        pictures: Sequence[LoadPicture],
        plan: LoadPlan,
        target: Mapping[str, Any],
        **options: Any,
    ) -> None:
        """target: description of what is at `url`, for the result. options: for `AsyncClient`."""
        self._url, self._options = url, options
        self._pictures, self._plan = list(pictures), plan
        self._steps: list[StepResult] = []
        self.document: dict[str, Any] = {
            "benchmark": "load",
            "schema": SCHEMA,
            "complete": False,
            "target": dict(target),
            "plan": plan.to_dict(),
            "images": [
                {"name": one.name, "width": one.width, "height": one.height, "bytes": len(one.data)}
                for one in pictures
            ],
            "machine": machine.describe(),
            "steps": [],
        }

    def resume_from(self, document: Mapping[str, Any]) -> None:
        """Keep the steps of an interrupted run.

        Raises `InvalidInput` if its settings differ from this run's, or it is damaged.
        """
        for key in ("benchmark", "schema", "target", "plan", "images"):
            if document.get(key) != _as_json(self.document[key]):
                raise InvalidInput(
                    f"the result to resume has another {key}: {document.get(key)}, this run has "
                    f"{self.document[key]}. Give the same options, or choose another output"
                )
        try:
            self._steps = [StepResult.from_dict(step) for step in document["steps"]]
            self.document["click_s"] = float(document["click_s"])
            self.document["model"] = dict(document["model"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"the result to resume is damaged ({type(error).__name__}: {error}); choose "
                "another output"
            ) from error
        self._summarise(complete=False)

    @property
    def steps(self) -> list[StepResult]:
        return list(self._steps)

    def run(self, observer: Observer, save: Callable[[Mapping[str, Any]], None]) -> None:
        """Run until the plan is complete. `save` gets the document after every step.

        Before the first step, raises what the client raises. Raises `InvalidInput` if the server's
        model is not the one that the run began with, and `ServerUnavailable` if the server no
        longer answers.
        """
        asyncio.run(self._run(observer, save))

    async def _run(self, observer: Observer, save: Callable[[Mapping[str, Any]], None]) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        async with AsyncClient(self._url, **self._options) as client:
            self._check_model(client)
            click_s = await self._warm_up(client)
            self.document.setdefault("click_s", click_s)
            while step := next_step(self._plan, self._steps, self.document["click_s"]):
                observer.began(step)
                result = await self._measure(step, client, observer)
                _check_alive(result)
                self._steps.append(result)
                observer.ended(result)
                self._summarise(complete=False)
                save(self.document)
        self._summarise(complete=True)
        save(self.document)

    def _check_model(self, client: AsyncClient) -> None:
        info = client.info
        model = {
            "network": info.network,
            "engine": info.engine,
            "sha256": info.model_sha256,
            "trained": info.trained,
            "longest": info.longest,
        }
        if self.document.setdefault("model", model) != model:
            raise InvalidInput(
                f"the run began with {self.document['model']}, the server now has {model}; choose "
                "another output"
            )

    async def _warm_up(self, client: AsyncClient) -> float:
        """Encode every picture and warm up connections and engines.

        Returns the median seconds of a click.
        """
        took = []
        for picture in self._pictures:
            session = await client.open(picture.data)
            for _ in range(max(2, _WARM_UP_CLICKS // len(self._pictures))):
                started = time.perf_counter()
                await session.click(picture.width / 2, picture.height / 2)
                took.append(time.perf_counter() - started)
                session.undo()
        return round(float(np.median(took)), 5)

    async def _measure(self, step: Step, client: AsyncClient, observer: Observer) -> StepResult:
        others = busy_share(_TICK_S)
        meter = Meter(step.seconds(self._plan))
        ticking = asyncio.ensure_future(_tick(observer, step, meter))
        try:
            await perform(step, self._plan, client, self._chosen(step), meter)
        finally:
            ticking.cancel()
        return meter.result(step, others_share=others)

    def _chosen(self, step: Step) -> list[LoadPicture]:
        """The pictures of a step. Those of the cold step get new digests."""
        if step.pace not in (Pace.COLD, Pace.WARM):
            return self._pictures
        count = len(self._pictures)
        chosen = [self._pictures[number % count] for number in range(int(step.level))]
        if step.pace is Pace.WARM:
            return chosen
        mark = secrets.token_hex(8)  # random, so that the pictures are new to any server
        return [one.unseen(f"ois bench load {mark} {n}") for n, one in enumerate(chosen)]

    def _summarise(self, *, complete: bool) -> None:
        plan = self._plan
        self.document["complete"] = complete
        self.document["steps"] = [step.to_dict() for step in self._steps]
        self.document["noisy"] = any(step.others_share > QUIET_SHARE for step in self._steps)
        self.document["lost"] = sum(step.lost for step in self._steps)
        self.document["saturation"] = saturation(self._steps, plan.limit_ms, plan.think.mean_s)


def _check_alive(result: StepResult) -> None:
    """Raise `ServerUnavailable` if no click of the step was answered."""
    if result.failures and not result.answered:
        codes = ", ".join(sorted({*result.failed, *result.failed_opens}))
        raise ServerUnavailable(
            f"no click of the step {result.label!r} was answered ({codes}); the step is discarded. "
            "Check the server's log, then continue with --resume"
        )


async def _tick(observer: Observer, step: Step, meter: Meter) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        observer.tick(step, meter)


def _as_json(value: Any) -> Any:
    """The value as read back from JSON: lists for tuples, strings for enums."""
    return json.loads(json.dumps(value))
