"""A simulated machine with replicas: queues, workers that share its processors, stores.

Each replica works as `ois_segment` does: two bounded queues, one for requests that need an encode
and one for all others, each with its workers; an LRU store of features, bounded in bytes; one
encode for all who wait for the same image. Requests that are worked on share the processors equally
(processor sharing): alone, one takes its service time; n together on a device that can do one at a
time take n times as long.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

OPEN, CLICK, BOTH = 0, 1, 2  # what a request asks for; BOTH: a click that brings its image
_NEVER = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOptions:
    """encode_workers, click_workers, queue: as in the server's options. store_images: how many
    images' features fit. parallel: how many requests the replica works on at full speed."""

    encode_workers: int = 2
    click_workers: int = 4
    queue: int = 64
    store_images: int = 1000
    parallel: float = 1.0


class Request:
    """One attempt of a request at a replica. user: whoever sent it, not looked at here."""

    __slots__ = ("encoding", "ends_at", "hit", "image", "kind", "replica", "unknown", "user")

    def __init__(self, user: Any, kind: int, image: int, replica: int) -> None:
        self.user, self.kind, self.image, self.replica = user, kind, image, replica
        self.hit = self.unknown = self.encoding = False
        self.ends_at = 0.0  # in the replica's own measure of work


class Replica:
    """Its `progress` is the work that each of its active requests has got so far."""

    __slots__ = (
        *("active", "clicks", "encoding", "encodes", "evictions", "free", "images", "options"),
        *("progress", "rate", "waiting"),
    )

    def __init__(self, options: ReplicaOptions) -> None:
        self.options = options
        self.progress = 0.0
        self.rate = 1.0
        self.evictions = 0
        self.clear()

    def clear(self) -> None:
        """Empty, as after a start."""
        self.images: OrderedDict[int, None] = OrderedDict()
        self.encodes: deque[Request] = deque()
        self.clicks: deque[Request] = deque()
        self.free = [self.options.encode_workers, self.options.click_workers]
        self.active: list[Request] = []
        self.encoding: dict[int, list[Request]] = {}

    def requests(self) -> list[Request]:
        """All that are here."""
        waiting = [one for group in self.encoding.values() for one in group]
        return [*self.encodes, *self.clicks, *self.active, *waiting]

    def holds(self, image: int) -> bool:
        if image in self.images:
            self.images.move_to_end(image)
            return True
        return False

    def keep(self, image: int) -> None:
        self.images[image] = None
        if len(self.images) > self.options.store_images:
            self.images.popitem(last=False)
            self.evictions += 1


class Machine:
    """One or more replicas on the same processors. parallel: requests at full speed, of all."""

    __slots__ = ("_at", "_draw", "parallel", "replicas", "version")

    def __init__(self, replicas: list[Replica], parallel: float, draw: Any) -> None:
        """draw: `Draws`, from which service times come."""
        self.replicas, self.parallel, self._draw = replicas, parallel, draw
        self.version = 0
        self._at = 0.0

    def add(self, now: float, replica: Replica, request: Request) -> bool:
        """A request arrives. Returns False if its queue is full."""
        self._advance(now)
        needs_encode = request.kind != CLICK and request.image not in replica.images
        queue = replica.encodes if needs_encode else replica.clicks
        if len(queue) >= replica.options.queue:
            return False
        request.encoding = needs_encode
        queue.append(request)
        self._start(replica)
        return True

    def next_end(self) -> float:
        """When the next request will be done, unless something else comes before."""
        self._share()
        soonest = _NEVER
        for replica in self.replicas:
            if replica.active:
                first = min(one.ends_at for one in replica.active)
                soonest = min(soonest, self._at + max(0.0, first - replica.progress) / replica.rate)
        return soonest

    def finish(self, now: float) -> list[Request]:
        """The requests that are done at this time."""
        self._advance(now)
        done: list[Request] = []
        for replica in self.replicas:
            ready = [
                one
                for one in replica.active
                if one.ends_at <= replica.progress * (1 + 1e-12) + 1e-12
            ]
            if ready:
                for one in ready:
                    replica.active.remove(one)
                    self._end(replica, one, done)
                self._start(replica)
        return done

    def drop(self, now: float, replica: Replica) -> list[Request]:
        """The replica dies. Returns the requests that it had."""
        self._advance(now)
        lost = replica.requests()
        replica.clear()
        return lost

    def _advance(self, now: float) -> None:
        passed = now - self._at
        if passed > 0:
            self._share()
            for replica in self.replicas:
                if replica.active:
                    replica.progress += passed * replica.rate
        self._at = now

    def _share(self) -> None:
        """The speed of each active request, per replica."""
        if len(self.replicas) == 1:
            replica = self.replicas[0]
            if count := len(replica.active):
                replica.rate = min(1.0, min(self.parallel, replica.options.parallel) / count)
            return
        speeds = 0.0
        for replica in self.replicas:
            if count := len(replica.active):
                replica.rate = min(1.0, replica.options.parallel / count)
                speeds += count * replica.rate
        if speeds > self.parallel:
            for replica in self.replicas:
                if replica.active:
                    replica.rate *= self.parallel / speeds

    def _start(self, replica: Replica) -> None:
        free = replica.free
        while free[0] and replica.encodes:
            free[0] -= 1
            self._work(replica, replica.encodes.popleft())
        while free[1] and replica.clicks:
            free[1] -= 1
            self._work(replica, replica.clicks.popleft())

    def _work(self, replica: Replica, request: Request) -> None:
        draw = self._draw
        if replica.holds(request.image):
            request.hit = True
            work = draw.light() if request.kind == OPEN else draw.click()
        elif request.kind == CLICK:
            request.unknown = True
            work = draw.light()
        elif request.image in replica.encoding:
            replica.encoding[request.image].append(request)  # it keeps its worker
            return
        else:
            replica.encoding[request.image] = []
            work = draw.encode()
        self._activate(replica, request, work)

    def _activate(self, replica: Replica, request: Request, work: float) -> None:
        request.ends_at = replica.progress + work
        replica.active.append(request)

    def _end(self, replica: Replica, request: Request, done: list[Request]) -> None:
        waiting = replica.encoding.get(request.image)
        if waiting is not None and not request.hit and not request.unknown:
            # The encode is done. Whoever waited for it goes on, and so does a click.
            del replica.encoding[request.image]
            replica.keep(request.image)
            for one in (request, *waiting):
                if one.kind == BOTH:
                    one.hit = True  # so that its second end is the last; `unknown` was counted
                    self._activate(replica, one, self._draw.click())
                else:
                    self._leave(replica, one, done)
            return
        self._leave(replica, request, done)

    def _leave(self, replica: Replica, request: Request, done: list[Request]) -> None:
        replica.free[0 if request.encoding else 1] += 1
        done.append(request)
