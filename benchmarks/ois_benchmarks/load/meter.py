"""Count and time every click of a step, from when it was due until it ended."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ois_benchmarks.load.pacing import Step
from ois_benchmarks.load.result import Latency, StepResult
from ois_benchmarks.statistics import quantiles, stage_medians
from ois_client.contract.errors import OISError
from ois_client.contract.images import ImageSource
from ois_client.sessions.async_client import AsyncClient
from ois_client.sessions.async_session import AsyncSession

#: After this many failures in a row the step ends, because the server does not work.
MAX_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Timed:
    """One operation. due, began, ended: seconds since the step began."""

    due: float
    began: float
    ended: float

    @property
    def ms(self) -> float:
        return (self.ended - self.due) * 1e3


@dataclass(slots=True)
class Meter:
    """The measurements of one step, in one event loop.

    seconds: after these nothing more falls due; infinite if the number of pictures ends the step.
    due: clicks that fell due. encodes: images that were encoded when opened. recovered: clicks
    before which the image was encoded again. strays: clicks that are missing in or extra to the
    history of a session. stopped: why users must not begin anything new; None while they may.
    """

    seconds: float
    clicks: list[Timed] = field(default_factory=list)
    opens: list[Timed] = field(default_factory=list)
    first_clicks: list[Timed] = field(default_factory=list)
    stages_ms: list[Mapping[str, float]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    failed_opens: Counter[str] = field(default_factory=Counter)
    due: int = 0
    encodes: int = 0
    recovered: int = 0
    strays: int = 0
    stopped: str | None = None
    _started: float = field(default_factory=time.perf_counter)
    _failures_in_a_row: int = 0

    def start(self) -> None:
        """Start the step's clock."""
        self._started = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self._started

    @property
    def in_flight(self) -> int:
        """Clicks that fell due and have not ended."""
        return self.due - len(self.clicks) - self.failed.total()

    def goes_on(self, due: float) -> bool:
        """Whether an operation due at this time is still part of the step."""
        return self.stopped is None and due < self.seconds

    async def open(
        self, client: AsyncClient, image: ImageSource, due: float
    ) -> AsyncSession | None:
        """Open and encode an image. None if that failed."""
        began = self.now
        try:
            session = await client.open(image)
        except OISError as error:
            self._fail(self.failed_opens, error)
            return None
        self.opens.append(Timed(due, began, self.now))
        if session.last_encode is not None and not session.last_encode.cached:
            self.encodes += 1
        return session

    async def click(self, session: AsyncSession, place: tuple[float, float], due: float) -> None:
        """Click on the session's newest object. The caller has already counted it in `due`.

        A failure is counted, not raised.
        """
        before = len(session.clicks())
        began = self.now
        try:
            await session.click(*place, positive=before % 3 < 2)
        except OISError as error:
            self._fail(self.failed, error)
        else:
            timed = Timed(due, began, self.now)
            self.clicks.append(timed)
            if not before and self.opens:
                self.first_clicks.append(timed)
            self._failures_in_a_row = 0
            reply = session.last_reply
            stages_ms = {} if reply is None else reply.timings_ms
            self.stages_ms.append(stages_ms)
            self.recovered += "encode" in stages_ms
            # The session's history must have exactly one click more.
            self.strays += abs(len(session.clicks()) - before - 1)

    def result(self, step: Step, *, others_share: float) -> StepResult:
        """The result of the step, once everything that fell due has ended."""
        elapsed = max((timed.ended for timed in self.clicks + self.opens), default=0.0)
        seconds = self.seconds if math.isfinite(self.seconds) else elapsed
        late = [timed.began - timed.due for timed in self.clicks]
        took_ms = [(timed.ended - timed.began) * 1e3 for timed in self.clicks]
        return StepResult(
            pace=step.pace.value,
            level=step.level,
            label=step.label,
            seconds=round(seconds, 3),
            elapsed_s=round(elapsed, 3),
            due=self.due,
            answered=len(self.clicks),
            failed=dict(sorted(self.failed.items())),
            failed_opens=dict(sorted(self.failed_opens.items())),
            lost=self.in_flight + self.strays,
            latency_ms=_latency(self.clicks),
            open_ms=_latency(self.opens),
            first_click_ms=_latency(self.first_clicks),
            encodes=self.encodes,
            recovered=self.recovered,
            late_ms=round(1e3 * float(np.quantile(late, 0.99)), 3) if late else 0.0,
            stages_ms=stage_medians(self.stages_ms, took_ms),
            others_share=others_share,
            stopped=self.stopped,
        )

    def _fail(self, counter: Counter[str], error: OISError) -> None:
        counter[error.code] += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES and self.stopped is None:
            self.stopped = f"{MAX_FAILURES} failures in a row, the last: {error}"


def _latency(timed: Sequence[Timed]) -> Latency:
    in_order = sorted(timed, key=lambda one: one.due)
    values = [one.ms for one in in_order]
    return Latency(
        count=len(values), max=round(max(values), 3) if values else None, **quantiles(values)
    )
