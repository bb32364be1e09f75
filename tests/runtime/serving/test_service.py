"""`SegmentService`, its request queue and its metrics, without Triton."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from ois_client.contract.clicks import Click
from ois_client.contract.errors import (
    InvalidImage,
    InvalidInput,
    ServerOverloaded,
    ServerUnavailable,
    UnknownImage,
)
from ois_client.wire import (
    Message,
    Tensors,
    click_message,
    encode_message,
    info_message,
    read_click_reply,
    read_info,
)
from ois_runtime.engines.backends import load_engines
from ois_runtime.engines.local import LocalTransport, open_transport
from ois_runtime.engines.segmenter import Segmenter
from ois_runtime.engines.store import StoreStats
from ois_runtime.serving.configuration import ServingOptions
from ois_runtime.serving.metrics import AnsweredRequest, Publisher
from ois_runtime.serving.service import (
    Cancelled,
    RequestQueue,
    RequestRecord,
    SegmentService,
    salt_of,
)
from support.server.calls import click_request, eventually, picture
from support.tiny_engines import write_engines


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def local(engines: Path) -> Iterator[LocalTransport]:
    """The same engines without `SegmentService`, for the expected answers."""
    transport = open_transport(str(engines))
    yield transport
    transport.close()


@pytest.fixture
def service(engines: Path) -> SegmentService:
    return SegmentService(Segmenter(load_engines(engines)), ServingOptions(decode_objects=3))


def ask(
    service: SegmentService, message: Message, *, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Tensors, RequestRecord]:
    record = RequestRecord()
    reply = service.handle(message.tensors, message.parameters, record, cancelled=cancelled)
    return reply, record


def test_a_request_is_recorded(service: SegmentService) -> None:
    image = picture(1)
    request = click_request(image, [Click(40, 40)], [Click(9, 9)])
    reply, record = ask(service, info_message())
    assert (record.kind, record.features) == ("info", "")
    assert read_info(reply).digest == ""
    reply, record = ask(service, encode_message(image, session="s"))
    assert (record.kind, record.features, record.session) == ("encode", "miss", "s")
    assert not read_info(reply).cached
    reply, record = ask(service, click_message(request))
    assert (record.kind, record.features, record.objects) == ("click", "hit", 2)
    assert read_info(reply).cached
    assert {"decode", "postprocess", "encode_mask", "total"} <= record.timings_ms.keys()
    assert record.log_line("ok").startswith(f"ois click ok session=- image={image.digest[:12]} obj")


def test_objects_in_several_runs_equal_one_run(
    service: SegmentService, local: LocalTransport
) -> None:
    image = picture(2)
    objects = [[Click(9 * n, 40), Click(2, n, positive=False)] for n in range(10)]
    wanted = {"want_depth": True, "want_logits": True, "want_order": True}
    request = click_request(image, *objects, **wanted)
    reply, _ = ask(service, click_message(request, picture=image))
    got = read_click_reply(reply, request)
    local.encode(image)
    expected = local.click(request)
    for name in ("masks", "coverage", "depth", "logits", "order"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_coverage_of_another_image_is_refused(service: SegmentService) -> None:
    image = picture(12)
    request = click_request(image, [Click(1, 1)])
    wrong = replace(request, coverage=np.zeros((1, 4, 3), np.uint8))
    with pytest.raises(InvalidInput, match=r"coverage of shape \(1, 4, 3\)"):
        ask(service, click_message(wrong, picture=image))


def test_a_request_with_too_large_a_reply_is_refused_before_the_work(engines: Path) -> None:
    options = ServingOptions(max_reply_bytes=3 * 42 * 56 * 4)
    service = SegmentService(Segmenter(load_engines(engines)), options)
    image = picture(3)
    ask(service, encode_message(image))
    three = click_request(image, *[[Click(1, 1)]] * 3, want_logits=True)
    ask(service, click_message(three))
    four = click_request(image, *[[Click(1, 1)]] * 3, [Click(1, 1)], want_logits=True)
    with pytest.raises(InvalidInput, match="fewer objects"):
        ask(service, click_message(four))


def test_a_cancelled_request_stops_between_stages(service: SegmentService) -> None:
    image = picture(4)
    with pytest.raises(Cancelled):
        ask(service, encode_message(image), cancelled=lambda: True)
    assert not service.segmenter.holds(image.digest)
    answers = iter([False, False, True])  # before the encode, and before the second run
    request = click_request(image, *[[Click(1, 1)]] * 6)
    with pytest.raises(Cancelled):
        ask(service, click_message(request, picture=image), cancelled=lambda: next(answers))
    assert service.segmenter.holds(image.digest)


def test_only_requests_with_a_new_image_wait_in_the_encode_queue(service: SegmentService) -> None:
    image = picture(5)
    message = encode_message(image)
    assert service.needs_encode(message.tensors, {})
    without_digest = {k: v for k, v in message.tensors.items() if k != "DIGEST"}
    assert service.needs_encode(without_digest, {})
    click = click_message(click_request(image, [Click(1, 1)]))
    assert not service.needs_encode(click.tensors, {})
    assert not service.needs_encode({}, {})
    ask(service, message)
    before = service.segmenter.stats()
    assert not service.needs_encode(message.tensors, {})
    assert service.segmenter.stats() == before  # this is not counted as a hit
    odd = {**message.tensors, "DIGEST": np.zeros((0,), object)}
    assert service.needs_encode(odd, {})


def test_a_lost_image_is_unknown_and_counts_as_a_miss(service: SegmentService) -> None:
    record = RequestRecord()
    message = click_message(click_request(picture(6), [Click(1, 1)]))
    with pytest.raises(UnknownImage):
        service.handle(message.tensors, message.parameters, record)
    assert (record.kind, record.features) == ("click", "miss")


# -- whose features --------------------------------------------------------------------------


def test_nobody_can_store_features_under_another_digest(service: SegmentService) -> None:
    """The server computes the digest of the image that it got; a stated one is only compared."""
    victim, other = picture(20), picture(21)
    message = encode_message(other)
    message.tensors["DIGEST"] = encode_message(victim).tensors["DIGEST"]
    with pytest.raises(InvalidImage, match="the digest is of another image"):
        ask(service, message)
    assert service.segmenter.stats().entries == 0
    for image in (victim, other):
        with pytest.raises(UnknownImage):
            ask(service, click_message(click_request(image, [Click(1, 1)])))
    del message.tensors["DIGEST"]
    reply, _ = ask(service, message)
    assert read_info(reply).digest == other.digest
    assert not service.segmenter.holds(victim.digest)


# -- features per token ------------------------------------------------------------------------


def test_a_salt_keeps_the_features_of_every_token_apart(engines: Path) -> None:
    """A digest alone gives another token nothing: no mask, no `cached`, no shorter queue."""
    service = SegmentService(Segmenter(load_engines(engines)), ServingOptions(cache_salt="token"))
    image = picture(7)
    encode, click = encode_message(image), click_message(click_request(image, [Click(40, 40)]))

    def asked(message: Message, token: str) -> Tensors:
        parameters = {**message.parameters, "authorization": token}
        return service.handle(message.tensors, parameters, RequestRecord())

    assert not read_info(asked(encode, "one")).cached
    assert read_info(asked(encode, "one")).cached
    assert service.needs_encode(encode.tensors, {"authorization": "two"})
    assert not service.needs_encode(encode.tensors, {"authorization": "one"})
    for stranger in ("two", ""):
        with pytest.raises(UnknownImage):
            asked(click, stranger)
        assert not read_info(asked(encode, stranger)).cached
    first, second = (asked(click, token)["MASKS"] for token in ("one", "two"))
    np.testing.assert_array_equal(first, second)
    assert service.segmenter.stats().entries == 3


def test_without_a_salt_all_tokens_share_features(service: SegmentService) -> None:
    message = encode_message(picture(8))
    for token, cached in (("one", False), ("two", True)):
        parameters = {**message.parameters, "authorization": token}
        reply = service.handle(message.tensors, parameters, RequestRecord())
        assert read_info(reply).cached == cached


def test_the_salt_is_that_of_the_token_and_does_not_contain_it() -> None:
    salt = salt_of({"authorization": "open-sesame"})
    assert "sesame" not in salt
    assert salt == salt_of({"Triton-Grpc-Protocol-Authorization": "open-sesame", "ois_want": ""})
    assert salt != salt_of({"authorization": "open-sesam"})
    both = {"triton-grpc-protocol-authorization": "x", "authorization": "open-sesame"}
    assert salt == salt_of(both)
    assert salt_of({"authorization": ""}) == salt_of({}) == ""


# -- the queue ---------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_a_closed_one_finishes_its_jobs() -> None:
    go, done = threading.Event(), []

    def work(job: int) -> None:
        go.wait()
        done.append(job)

    queue: RequestQueue[int] = RequestQueue("click", 1, 3, work)
    queue.add(0)
    eventually(queue.waiting, lambda count: count == 0)  # taken by the worker
    for job in (1, 2, 3):
        queue.add(job)
    with pytest.raises(ServerOverloaded, match="3 requests are waiting"):
        queue.add(4)
    closing = threading.Thread(target=queue.close)
    closing.start()
    go.set()
    closing.join()
    assert done == [0, 1, 2, 3]
    with pytest.raises(ServerUnavailable, match="shutting down"):
        queue.add(5)
    queue.close()


def test_a_queue_refuses_more_bytes_than_its_limit_until_some_are_answered() -> None:
    go, done = threading.Semaphore(0), []

    def work(job: int) -> None:
        go.acquire()
        done.append(job)

    queue: RequestQueue[int] = RequestQueue("encode", 1, 9, work, max_bytes=100)
    queue.add(0, 300)  # alone, even one above the limit is answered
    with pytest.raises(ServerOverloaded, match="300 bytes, and this one 1; the limit is 100"):
        queue.add(1, 1)
    go.release()

    def added() -> bool:
        with contextlib.suppress(ServerOverloaded):
            queue.add(2, 60)
            return True
        return False

    assert eventually(added, bool)
    queue.add(3, 40)
    with pytest.raises(ServerOverloaded):
        queue.add(4, 1)
    go.release(2)
    queue.close()
    assert done == [0, 2, 3]


# -- metrics -----------------------------------------------------------------------------------


@dataclass
class Numbers:
    """Metrics kept in dictionaries."""

    values: dict[str, float] = field(default_factory=dict)
    seen: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        key = name + "".join(f",{value}" for value in labels.values())
        self.values[key] = self.values.get(key, 0) + value

    def set(self, name: str, value: float) -> None:
        self.values[name] = value

    def observe(self, name: str, value: float) -> None:
        self.seen.setdefault(name, []).append(value)


def test_reported_requests_are_published_once() -> None:
    numbers = Numbers()
    stats = StoreStats(
        hits=5, misses=2, evictions=1, expirations=0, bytes=70, entries=3, budget_bytes=100
    )
    lines: list[str] = []
    publisher = Publisher(
        numbers, lambda: stats, lines.append, host_bytes=lambda: 41, period_s=0.01
    )
    publisher.log("click ok")
    publisher.report(AnsweredRequest("click", "ok", 0.02, "hit", decodes=1))
    publisher.report(AnsweredRequest("click", "ok", 2.0, "miss", decodes=4))
    publisher.report(AnsweredRequest("click", "INVALID_CLICK", 0.001, "hit"))
    publisher.report(AnsweredRequest("encode", "ok", 0.001, "hit"))
    publisher.report(AnsweredRequest("info", "ok", 0.001))
    time.sleep(0.1)
    publisher.close()
    publisher.close()
    assert lines == ["click ok"]
    assert numbers.seen == {"ois_click_seconds": [0.02], "ois_encode_seconds": [2.0]}
    assert numbers.values == {
        "ois_requests_total,click,ok": 2,
        "ois_requests_total,click,INVALID_CLICK": 1,
        "ois_requests_total,encode,ok": 1,
        "ois_requests_total,info,ok": 1,
        "ois_decodes_total": 5,
        "ois_click_host_bytes_total": 41,
        "ois_store_hits_total": 5,
        "ois_store_misses_total": 2,
        "ois_store_evictions_total": 1,
        "ois_store_bytes": 70,
        "ois_store_images": 3,
        "ois_store_budget_bytes": 100,
    }
