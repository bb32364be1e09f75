"""`ois bench chaos`: users click through relays while faults hit the server at random moments.

users ──► relay ──► HTTP ─┐
users ──► relay ──► gRPC ─┴─ embedded server ◄── kill -9, SIGSTOP, no descriptors, full disk
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ois_benchmarks import machine
from ois_benchmarks.chaos.faults import PROCESSES, Fault, Scene, inflict, process_of
from ois_benchmarks.chaos.relay import Relay
from ois_benchmarks.chaos.result import SCHEMA, Inflicted, add_up, recovery, to_json
from ois_benchmarks.chaos.users import Script, User, write_scripts
from ois_benchmarks.load.pictures import LoadPicture
from ois_benchmarks.timing import busy_share
from ois_client import Client
from ois_client.contract.errors import InvalidInput
from ois_client.transports.settings import Timeouts
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer

CACHE_BYTES = 64 * 2**20
_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """What to run. Raises `InvalidInput` for values out of range.

    rounds: every fault comes once per round, in random order. users: half over gRPC, half over
    HTTP. clicks: on each picture. pause_s: the longest time between a recovery and the next
    fault. hold_s: the longest time that a fault which can be undone lasts. recover_within_s: a
    longer time to recover counts as none. seed: of moments, order, choice and click positions.
    """

    faults: tuple[Fault, ...] = tuple(Fault)
    rounds: int = 1
    users: int = 4
    clicks: int = 6
    pause_s: float = 1.0
    hold_s: float = 2.0
    recover_within_s: float = 120.0
    timeouts: Timeouts = field(
        default_factory=lambda: Timeouts(connect_s=20, click_s=4, encode_s=4)
    )
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("rounds", self.rounds, 1, 1000),
            ("users", self.users, 1, 64),
            ("clicks per picture", self.clicks, 1, 24),
            ("the pause", self.pause_s, 0, 600),
            ("the duration of a fault", self.hold_s, 0.1, 600),
            ("the time to recover", self.recover_within_s, 1, 3600),
        ):
            if not low <= value <= high:
                raise InvalidInput(f"got {value:g} for {name}; expected {low:g} to {high:g}")
        if not self.faults:
            raise InvalidInput(f"got no fault; expected some of {', '.join(Fault)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def order(self) -> list[Fault]:
        dice = random.Random(self.seed)
        return [
            fault
            for _ in range(self.rounds)
            for fault in dice.sample(self.faults, len(self.faults))
        ]


class ChaosRun:
    """One run. `document` always holds everything measured so far, JSON-ready."""

    def __init__(
        self,
        engines: Path,
        pictures: Sequence[LoadPicture],
        plan: ChaosPlan,
        skipped: Mapping[str, str] | None = None,
        repository: Path | None = None,
    ) -> None:
        """engines: an engine folder. repository: the model repository, if it is not in there.
        skipped: faults that cannot be made here, with the reasons, for the result.
        """
        self._engines, self._repository = engines, repository or engines
        self._pictures, self._plan = list(pictures), plan
        self._faults: list[Inflicted] = []
        self.document: dict[str, Any] = {
            "benchmark": "chaos",
            "schema": SCHEMA,
            "complete": False,
            "target": {"kind": "embedded server", "protocols": ["grpc", "http"]},
            "plan": plan.to_dict(),
            "images": [
                {"name": one.name, "width": one.width, "height": one.height, "bytes": len(one.data)}
                for one in pictures
            ],
            "machine": machine.describe(),
            "others_share": busy_share(),
            "skipped": dict(skipped or {}),
            "faults": [],
        }

    def run(
        self,
        began: Callable[[int, Fault], None] = lambda *_: None,
        save: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        """Run until the plan is complete. began: called before each fault. save: gets the
        document after each.

        Raises `EngineError` if the server cannot be started, or not again after a fault.
        """
        plan = self._plan
        with Client(f"local:{self._engines}") as twin:
            data = [one.data for one in self._pictures]
            scripts = write_scripts(twin, data, plan.clicks, plan.seed)
            info = twin.info
            self.document["model"] = {"network": info.network, "sha256": info.model_sha256}
        with ExitStack() as held:
            server = held.enter_context(
                EmbeddedServer(self._repository, ServerOptions(cache_bytes=CACHE_BYTES))
            )
            relays = [
                held.enter_context(Relay(port)) for port in (server.ports.grpc, server.ports.http)
            ]
            urls = [
                f"{name}://127.0.0.1:{one.port}"
                for name, one in zip(("grpc", "http"), relays, strict=True)
            ]
            clients = [held.enter_context(Client(url, timeouts=plan.timeouts)) for url in urls]
            over, give_up = threading.Event(), threading.Event()
            damaged = Fault.DUPLICATE in plan.faults
            users = [
                User(
                    clients[n % 2],
                    _turned(scripts, n),
                    plan.timeouts,
                    over,
                    give_up,
                    damaged=damaged,
                )
                for n in range(plan.users)
            ]
            for user in users:
                user.start()
            try:
                self._break(Scene(server, relays), users, began, save)
            finally:
                over.set()
                longest = time.monotonic() + plan.recover_within_s
                for user in users:
                    user.join(max(0.0, longest - time.monotonic()))
                give_up.set()
                for user in users:
                    user.join()
                self._summarise(users)
        self.document["complete"] = True
        save(self.document)

    def _break(
        self,
        scene: Scene,
        users: Sequence[User],
        began: Callable[[int, Fault], None],
        save: Callable[[Mapping[str, Any]], None],
    ) -> None:
        plan, start = self._plan, time.monotonic()
        dice = random.Random(plan.seed + 1)
        self._recovered(scene, users, start)  # the first clicks
        for number, fault in enumerate(plan.order()):
            time.sleep(dice.uniform(0, plan.pause_s))
            began(number, fault)
            restarts, at = scene.server.restarts, time.monotonic()
            inflict(fault, scene, dice.uniform(0.25, 1.0) * plan.hold_s, dice)
            ended = time.monotonic()
            recover_s = self._recovered(scene, users, ended)
            self._faults.append(
                Inflicted(
                    str(fault),
                    round(at - start, 3),
                    0.0 if fault.kills and not fault.needs_root else round(ended - at, 3),
                    recover_s,
                    scene.server.restarts - restarts,
                )
            )
            self._summarise(users)
            save(self.document)

    def _recovered(self, scene: Scene, users: Sequence[User], since: float) -> float | None:
        """Wait until every user has an answer to a click that began after `since`, and the server
        has all its processes. Returns the seconds to the former; None if it took too long.
        """
        within_s = self._plan.recover_within_s
        while not all(user.last_answered > since for user in users):
            if time.monotonic() - since > within_s:
                return None
            scene.server.wait(_POLL_S)  # raises if the server is gone for good
        took_s = time.monotonic() - since
        while not _is_whole(scene.server) and time.monotonic() - since < within_s:
            scene.server.wait(_POLL_S)
        return round(took_s, 3)

    def _summarise(self, users: Sequence[User]) -> None:
        self.document["faults"] = to_json(self._faults)
        self.document["clicks"] = add_up([user.counts for user in users])
        self.document["recovery_s"] = recovery(self._faults)


def _is_whole(server: EmbeddedServer) -> bool:
    """Whether the next fault would find the process that it is to hit."""
    try:
        for name in PROCESSES:
            process_of(server, name)
    except InvalidInput:
        return False
    return True


def _turned(scripts: Sequence[Script], by: int) -> list[Script]:
    """The same scripts from another one on, so that users are not all on one picture."""
    by %= len(scripts)
    return [*scripts[by:], *scripts[:by]]
