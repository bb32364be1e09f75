"""A replica is killed, frozen, removed or added while people click through Envoy.

The share of clicks that find their image's features is counted by encodes: a click that does not
find them costs one. The consistent hash may move one image besides those of the replica. Masks are
compared with engines in process throughout.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ois_client import Client
from ois_client.contract.errors import DeadlineExceeded, OISError, ServerOverloaded
from ois_client.transports.settings import Retries, Timeouts
from ois_runtime.edge.settings import Replica
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.probe import probe_info
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import eventually, settled, triton_statistics
from support.server.envoy import PATIENT, Front, envoy_before, needs_envoy, replica
from support.server.players import Player, pixels, play_while
from support.wire_server import WireServer

pytestmark = needs_envoy

TIMEOUTS = Timeouts(click_s=20, encode_s=20)


@pytest.fixture
def clients(engines: Path, front: Front) -> Iterator[tuple[Client, Client, Client]]:
    """In process, over gRPC and over HTTP."""
    with (
        Client(f"local:{engines}") as twin,
        Client(front.grpc_url, timeouts=TIMEOUTS) as grpc,
        Client(front.http_url, timeouts=TIMEOUTS) as http,
    ):
        yield twin, grpc, http


@pytest.fixture
def front(replicas: list[EmbeddedServer], request: pytest.FixtureRequest) -> Iterator[Front]:
    """Envoy; a parameter has its settings."""
    assert eventually(lambda: all(map(answers, replicas)), bool)
    with envoy_before(replicas, **getattr(request, "param", {})) as running:
        yield running


class Crowd:
    """Players on images of which every replica has some."""

    def __init__(
        self, replicas: Sequence[EmbeddedServer], clients: tuple[Client, Client, Client], seed: int
    ) -> None:
        self.replicas = replicas
        self.players: list[Player] = []
        self.homes: list[int] = []  # the replica of each player's image
        twin, grpc, http = clients
        while len(self.players) < 9 or len(set(self.homes)) < len(replicas):
            n = len(self.players)
            assert n < 60
            before = encodes(replicas)
            image = pixels(seed + n)
            self.players.append(Player(http if n % 2 else grpc, twin, image, seed=n))
            (home,) = eventually(
                lambda before=before: np.flatnonzero(np.subtract(encodes(replicas), before)), len
            )
            self.homes.append(int(home))

    def images_of(self, index: int) -> int:
        return self.homes.count(index)

    def click(self) -> Counter[int]:
        """Each player clicks once, one after the other. Returns replica -> encodes it took."""
        before = encodes(self.replicas)
        for player in self.players:
            assert player.click(), player.errors[-1]
        for player in self.players:
            player.check()
        after = settled(lambda: encodes(self.replicas))
        return +Counter(dict(enumerate(np.subtract(after, before).tolist())))


def test_a_killed_replica_costs_its_own_images_one_encode_each(
    replicas: list[EmbeddedServer], front: Front, clients: tuple[Client, Client, Client]
) -> None:
    crowd = Crowd(replicas, clients, 7500)
    assert not crowd.click()  # before: every click finds its features
    dead = replicas[1]
    others = [replicas[0], replicas[2]]
    before = encodes(others)
    restarts = dead.restarts
    assert dead.pid is not None
    os.killpg(dead.pid, signal.SIGSTOP)  # or it could be back before the clicks
    assert eventually(lambda: addresses(dead) <= front.edge.unhealthy(), bool)
    for player in crowd.players:
        assert player.click(), player.errors[-1]
    moved = sum(settled(lambda: encodes(others))) - sum(before)
    assert crowd.images_of(1) <= moved <= crowd.images_of(1) + 1  # during: one each did not
    for player in crowd.players:
        assert player.click(), player.errors[-1]
    assert sum(settled(lambda: encodes(others))) - sum(before) == moved  # and then all did again

    os.killpg(dead.pid, signal.SIGKILL)
    assert eventually(lambda: dead.restarts > restarts and answers(dead), bool)
    assert eventually(lambda: not front.edge.unhealthy(), bool)
    # After: it has its images again. The front may have kept a click that the frozen server never
    # answered, and have repeated it since.
    (again,) = crowd.click().items()
    assert again[0] == 1
    assert crowd.images_of(1) - 1 <= again[1] <= crowd.images_of(1)
    assert not crowd.click()


def test_clicks_in_progress_survive_a_killed_replica(
    replicas: list[EmbeddedServer], clients: tuple[Client, Client, Client]
) -> None:
    crowd = Crowd(replicas, clients, 7600)
    restarts = replicas[0].restarts

    def kill() -> None:
        time.sleep(0.2)
        assert replicas[0].pid is not None
        os.killpg(replicas[0].pid, signal.SIGKILL)
        assert eventually(lambda: replicas[0].restarts > restarts, bool)

    play_while(crowd.players, kill)
    for player in crowd.players:
        assert not player.errors  # the client repeated what was cut off, on another replica


def test_a_frozen_replica_costs_the_clicks_that_wait_for_it_and_no_others(
    replicas: list[EmbeddedServer], front: Front, engines: Path
) -> None:
    """It still accepts connections, so only health checks show that it does not answer."""
    short = Timeouts(click_s=5, encode_s=30)
    with (
        Client(f"local:{engines}") as twin,
        Client(front.grpc_url, timeouts=short) as grpc,
        Client(front.http_url, timeouts=short) as http,
    ):
        crowd = Crowd(replicas, (twin, grpc, http), 7650)
        frozen = replicas[2].pid
        assert frozen is not None
        stuck = [one for one, home in zip(crowd.players, crowd.homes, strict=True) if home == 2]
        os.killpg(frozen, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(len(stuck)) as pool:
                answered = list(pool.map(Player.click, stuck))
            # One is answered by another replica if the front gives up this one before its deadline.
            for one, done in zip(stuck, answered, strict=True):
                assert done or isinstance(one.errors[-1], DeadlineExceeded)
            out = addresses(replicas[2])
            assert eventually(lambda: out <= front.edge.unhealthy(), bool)
            assert all(map(Player.click, stuck))  # on other replicas: it is still frozen
        finally:
            os.killpg(frozen, signal.SIGCONT)
        assert eventually(lambda: not front.edge.unhealthy(), bool)
        assert not crowd.click()  # it has lost nothing


def test_a_replica_that_is_stopped_costs_no_click(
    replicas: list[EmbeddedServer], engines: Path
) -> None:
    """It says that it stops, and then refuses connections, so that Envoy takes the other one."""
    patient = Retries(attempts=20, max_backoff_s=0.5)
    with (
        EmbeddedServer(engines, ServerOptions(cache_bytes=2**24)) as leaving,
        envoy_before([replicas[0], leaving], **PATIENT) as front,
        Client(f"local:{engines}") as twin,
        Client(front.grpc_url, timeouts=TIMEOUTS, retries=patient) as grpc,
        Client(front.http_url, timeouts=TIMEOUTS, retries=patient) as http,
    ):
        crowd = Crowd([replicas[0], leaving], (twin, grpc, http), 7720)
        answered = sum(player.answered for player in crowd.players)
        play_while(crowd.players, leaving.stop)
        assert not [error for player in crowd.players for error in player.errors]
        for player in crowd.players:
            assert player.click(), player.errors[-1]
        assert sum(player.answered for player in crowd.players) > answered + len(crowd.players)


@pytest.mark.parametrize("front", [PATIENT], indirect=True)
def test_removed_and_added_replicas_move_only_their_own_images(
    replicas: list[EmbeddedServer], front: Front, clients: tuple[Client, Client, Client]
) -> None:
    crowd = Crowd(replicas, clients, 7700)
    all_three = [replica(server) for server in replicas]
    front.edge.set_replicas(all_three[:2])
    moved = crowd.click()
    assert crowd.images_of(2) <= sum(moved.values()) <= crowd.images_of(2) + 1
    assert 2 not in moved
    assert not crowd.click()
    front.edge.set_replicas(all_three)
    assert not crowd.click()  # it still has its images, and gets them back


def test_a_removed_replica_finishes_what_it_has() -> None:
    image = pixels(7800)
    with (
        fakes(2) as servers,
        envoy_before(servers, **PATIENT) as front,
        Client(front.grpc_url) as client,
    ):
        session = client.open(image)
        (home,) = [one for one in servers if session.picture.digest in one.fake.disks.images]
        (other,) = [one for one in servers if one is not home]
        release = threading.Event()
        home.fake.sleep = lambda _active: release.wait(60)
        before = clicks_at(home)
        with ThreadPoolExecutor(1) as pool:
            click = pool.submit(session.click, 40, 40)
            assert eventually(lambda: clicks_at(home) > before, bool)
            front.edge.set_replicas([replica(other)])
            assert not click.done()
            release.set()
            assert click.result(timeout=60).any()
        before = clicks_at(home)
        assert session.click(60, 60).any()
        assert clicks_at(home) == before
        assert session.picture.digest in other.fake.disks.images


def test_clicks_on_a_hot_image_spread_over_the_replicas() -> None:
    """One image has all the clicks: its replica gets at most its bounded share of them."""
    users = 12
    with fakes(3) as servers, envoy_before(servers, balance_percent=100, **PATIENT) as front:
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(front.grpc_url)) for _ in range(users)]
            sessions = [client.open(pixels(7900)) for client in clients]
            homes = [one for one in servers if sessions[0].picture.digest in one.fake.disks.images]
            assert len(homes) == 1
            assert clicks_at(homes[0]) == users  # one after the other, all go to its replica
            release = threading.Event()
            for one in servers:
                one.fake.headers.clear()
                one.fake.sleep = lambda _active: release.wait(60)
            with ThreadPoolExecutor(users) as pool:
                clicks = [pool.submit(one.click, 10 + n, 40) for n, one in enumerate(sessions)]
                arrived = eventually(
                    lambda: [clicks_at(one) for one in servers], lambda n: sum(n) == users
                )
                release.set()
                assert all(click.result(timeout=60).any() for click in clicks)
        assert sum(arrived) == users
        assert min(arrived) > 0
        # Of 12 in progress a replica has a share of 4. It gets one more while it has no more than
        # that, and perhaps another by Envoy's second thread at the same moment.
        assert max(arrived) <= 6


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_requests_above_the_limit_are_refused_as_overload(protocol: str) -> None:
    """Whichever worker thread of Envoy the second one meets."""
    once = Retries(attempts=1)
    with fakes(1) as servers, envoy_before(servers, max_requests=1, **PATIENT) as front:
        url = getattr(front, f"{protocol}_url")
        with Client(url, retries=once) as client, ThreadPoolExecutor(1) as pool:
            one, other = client.open(pixels(7960)), client.open(pixels(7961))
            release = threading.Event()
            before = clicks_at(servers[0])
            servers[0].fake.sleep = lambda _active: release.wait(60)
            click = pool.submit(one.click, 40, 40)
            try:
                assert eventually(lambda: clicks_at(servers[0]) > before, bool)
                for _ in range(8):
                    with pytest.raises(ServerOverloaded, match="too many requests"):
                        Client(url, retries=once)  # a connection of its own
                with pytest.raises(ServerOverloaded, match="too many requests"):
                    other.click(40, 40)
            finally:
                release.set()
            assert click.result(timeout=60).any()


def test_a_replica_may_be_a_name_and_names_that_do_not_exist_are_skipped() -> None:
    with fakes(1) as servers:
        found = replica(servers[0])
        named = [replace(found, host="localhost"), Replica("ois-1.invalid")]
        with envoy_before(servers, **PATIENT) as front, Client(front.grpc_url) as client:
            front.edge.set_replicas(named)
            session = client.open(pixels(7970))
            assert session.click(40, 40).any()


def test_no_replica_left_is_a_typed_error_and_the_session_stays() -> None:
    with fakes(1) as servers, envoy_before(servers) as front, Client(front.http_url) as client:
        session = client.open(pixels(7950))
        mask = session.click(40, 40)
        servers[0].fake.__exit__()
        with pytest.raises(OISError, match="no replica answers"):
            session.click(60, 60)
        np.testing.assert_array_equal(session.mask(), mask)


# -- helpers --------------------------------------------------------------------------------------


def encodes(replicas: Sequence[EmbeddedServer]) -> list[int]:
    return [triton_statistics(server)["ois_encoder"] for server in replicas]


def answers(server: EmbeddedServer) -> bool:
    try:
        probe_info(server.options.host, server.ports.http, timeout_s=5)
    except OISError:
        return False
    return True


def addresses(server: EmbeddedServer) -> set[str]:
    """Of both ports: Envoy notices at different times that they do not answer."""
    return {url.partition("://")[2] for url in (server.http_url, server.grpc_url)}


@contextmanager
def fakes(count: int) -> Iterator[list[SimpleNamespace]]:
    """Servers in this process, which answer as late as a test wants."""
    with ExitStack() as stack:
        servers = [stack.enter_context(WireServer()) for _ in range(count)]
        yield [
            SimpleNamespace(grpc_url=one.urls["grpc"], http_url=one.urls["http"], fake=one)
            for one in servers
        ]


def clicks_at(server: SimpleNamespace) -> int:
    """Requests about an image that have arrived, health checks excluded."""
    return sum("ois-image-digest" in headers for headers in server.fake.headers)
