"""The simulation: sessions, the balancer, machines and a loss, event by event.

Discrete events in a heap. SimPy was considered: its processes cost several times as much per event,
and a queue whose service speed changes with every arrival (processor sharing) needs interrupts of
them. A million clicks take about a minute here.

    session ─► choose a replica ─► queue ─► worker ─► reply ─► pause ─► next click
                                                 └─► unknown image: again, with the image
"""

from __future__ import annotations

import heapq
import itertools
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ois_benchmarks.capacity.hashing import Balancer
from ois_benchmarks.capacity.machines import (
    BOTH,
    CLICK,
    OPEN,
    Machine,
    Replica,
    ReplicaOptions,
    Request,
)
from ois_benchmarks.capacity.service import ServiceTimes
from ois_benchmarks.capacity.workload import Session
from ois_client.contract.errors import InvalidInput
from ois_client.transports.settings import Retries

_BEGIN, _SEND, _MACHINE, _REPLY, _LOSE, _RESTORE = range(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A replica dies at `at_s` and comes back, empty, after `down_s`."""

    at_s: float
    down_s: float = 60.0
    replica: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """replicas, and how they are built. machine_parallel: of all replicas together, if they share
    one machine; None: each has its own. balance_percent: of the edge, see `EdgeSettings`."""

    replicas: int
    options: ReplicaOptions = field(default_factory=ReplicaOptions)
    machine_parallel: float | None = None
    balance_percent: int = 200
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= 20_000:
            raise InvalidInput(f"got {self.replicas} replicas; expected 1 to 20,000")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Draws:
    """Service times at random from the samples. Fast, and the same for the same seed."""

    def __init__(self, times: ServiceTimes, seed: int) -> None:
        dice = random.Random(seed)
        self.random = dice.random

        def chooser(values: Sequence[float]) -> Callable[[], float]:
            if len(values) == 1:
                only = float(values[0])
                return lambda: only
            kept, count, roll = list(values), len(values), dice.random
            return lambda: kept[int(roll() * count)]

        self.click, self.encode = chooser(times.click_s), chooser(times.encode_s)
        self.light, self.other = chooser(times.light_s), chooser(times.other_s)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One row per open or click that ended. due_s: when it was sent. ms: until it was answered.
    hit: its features were there. Both are (n,) arrays. failed: refused after all attempts."""

    due_s: np.ndarray
    ms: np.ndarray
    hit: np.ndarray
    failed: int


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a simulation saw. repeated: attempts that a loss cut off."""

    opens: Seen
    clicks: Seen
    evictions: int
    repeated: int
    sent: np.ndarray  # (replicas,) requests


class _User:
    """A session under way. step: 0 while the image is opened, then the number of the click."""

    __slots__ = ("attempt", "due", "kind", "missed", "session", "step")

    def __init__(self, session: Session) -> None:
        self.session, self.step, self.kind = session, 0, OPEN
        self.due = session.at_s
        self.attempt, self.missed = 0, False


class _Records:
    def __init__(self) -> None:
        self.due, self.ms, self.hit, self.failed = array("d"), array("d"), array("b"), 0

    def add(self, due: float, now: float, hit: bool) -> None:
        self.due.append(due)
        self.ms.append(1e3 * (now - due))
        self.hit.append(hit)

    def seen(self, since_s: float) -> Seen:
        due = np.frombuffer(self.due) if self.due else np.zeros(0)
        late = due >= since_s
        ms = np.frombuffer(self.ms) if self.ms else np.zeros(0)
        hit = np.frombuffer(self.hit, np.int8) if self.hit else np.zeros(0, np.int8)
        return Seen(due[late], ms[late], hit[late].astype(bool), self.failed)


def simulate(
    cluster: Cluster,
    times: ServiceTimes,
    sessions: Sequence[Session],
    *,
    warm_up_s: float = 0.0,
    until_s: float = float("inf"),
    loss: Loss | None = None,
    seed: int = 0,
) -> Outcome:
    """Play all sessions. warm_up_s: what was due before is not in the outcome. until_s: the
    simulation ends here; what is then under way is left out.
    """
    return _Simulation(cluster, times, sessions, loss, seed).run(warm_up_s, until_s)


class _Simulation:
    def __init__(
        self,
        cluster: Cluster,
        times: ServiceTimes,
        sessions: Sequence[Session],
        loss: Loss | None,
        seed: int,
    ) -> None:
        self._draws = Draws(times, seed)
        self._replicas = [Replica(cluster.options) for _ in range(cluster.replicas)]
        if cluster.machine_parallel is None:
            alone = cluster.options.parallel
            self._machines = [Machine([one], alone, self._draws) for one in self._replicas]
            self._machine_of = self._machines
        else:
            shared = Machine(self._replicas, cluster.machine_parallel, self._draws)
            self._machines, self._machine_of = [shared], [shared] * cluster.replicas
        self._balancer = Balancer(cluster.replicas, cluster.balance_percent)
        self._retries = cluster.retries
        self._sessions, self._loss = sessions, loss
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, int, Any]] = []
        self._opens, self._clicks = _Records(), _Records()
        self._sent = [0] * cluster.replicas
        self._repeated = 0
        self._dropped: set[int] = set()  # ids of requests that a loss cut off: their replies

    def run(self, warm_up_s: float, until_s: float) -> Outcome:
        heap, push = self._heap, self._push
        if self._loss is not None:
            push(self._loss.at_s, _LOSE, self._loss.replica)
            push(self._loss.at_s + self._loss.down_s, _RESTORE, None)
        coming = iter(self._sessions)
        first = next(coming, None)
        if first is not None:
            push(first.at_s, _BEGIN, first)
        while heap:
            now, _, kind, what = heapq.heappop(heap)
            if now > until_s:
                break
            if kind == _MACHINE:
                machine, version = what
                if version == machine.version:
                    self._finish(now, machine)
            elif kind == _REPLY:
                self._reply(now, what)
            elif kind == _SEND:
                self._send(now, what)
            elif kind == _BEGIN:
                self._send(now, _User(what))
                following = next(coming, None)
                if following is not None:
                    push(following.at_s, _BEGIN, following)
            elif kind == _LOSE:
                self._lose(now, what)
            else:
                self._balancer.restore()
        return Outcome(
            self._opens.seen(warm_up_s),
            self._clicks.seen(warm_up_s),
            sum(one.evictions for one in self._replicas),
            self._repeated,
            np.array(self._sent),
        )

    def _push(self, at: float, kind: int, what: Any) -> None:
        heapq.heappush(self._heap, (at, next(self._numbers), kind, what))

    def _send(self, now: float, user: _User) -> None:
        image = user.session.image
        # Scattered, because images are numbered one after the other.
        index = self._balancer.choose(
            image * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019 & 0xFFFFFFFFFFFFFFFF
        )
        self._sent[index] += 1
        request = Request(user, user.kind, image, index)
        machine = self._machine_of[index]
        if machine.add(now, self._replicas[index], request):
            self._schedule(machine)
            return
        self._balancer.done(index)
        user.attempt += 1
        if user.attempt < self._retries.attempts:
            self._push(now + self._pause(user.attempt), _SEND, user)
        else:
            (self._clicks if user.step else self._opens).failed += 1
            self._next(now, user)

    def _pause(self, attempt: int) -> float:
        retries = self._retries
        longest = min(retries.max_backoff_s, retries.backoff_s * 2 ** (attempt - 1))
        return longest * (0.5 + 0.5 * self._draws.random())

    def _schedule(self, machine: Machine) -> None:
        machine.version += 1
        at = machine.next_end()
        if at < float("inf"):
            self._push(at, _MACHINE, (machine, machine.version))

    def _finish(self, now: float, machine: Machine) -> None:
        for request in machine.finish(now):
            self._push(now + self._draws.other(), _REPLY, request)
        self._schedule(machine)

    def _reply(self, now: float, request: Request) -> None:
        self._balancer.done(request.replica)
        user = request.user
        if request.unknown:
            user.missed, user.kind, user.attempt = True, BOTH, 0
            self._send(now, user)
            return
        if user.step:
            self._clicks.add(user.due, now, not user.missed)
        else:
            self._opens.add(user.due, now, request.hit)
        self._next(now, user)

    def _next(self, now: float, user: _User) -> None:
        """The person looks at the answer, then clicks again or leaves."""
        pauses = user.session.pauses_s
        if user.step < len(pauses):
            user.due = now + pauses[user.step]
            user.step += 1
            user.kind, user.attempt, user.missed = CLICK, 0, False
            self._push(user.due, _SEND, user)

    def _lose(self, now: float, index: int) -> None:
        self._balancer.lose(index)
        machine = self._machine_of[index]
        for request in machine.drop(now, self._replicas[index]):
            self._balancer.done(index)
            self._repeated += 1
            self._push(now + self._pause(1), _SEND, request.user)
        self._schedule(machine)
