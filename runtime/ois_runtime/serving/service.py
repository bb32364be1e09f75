"""Answers requests without Triton: tensors in, tensors or an error out.

`SegmentService` answers one request. `RequestQueue` holds waiting requests for a few threads. The
model `ois_segment` (`segment_model.py`) connects both to Triton; tests use them in process.
"""

from __future__ import annotations

import hashlib
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput, ServerOverloaded, ServerUnavailable
from ois_client.contract.masks import MaskFormat, encode_mask
from ois_client.contract.transport import Answer, ClickRequest
from ois_client.wire import TOKEN_HEADER, Call, ReplyInfo, Tensors, read_call, write_reply
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.segmenter import Refined, Segmenter, timed
from ois_runtime.serving.configuration import ServingOptions

Job = TypeVar("Job")


class Cancelled(Exception):
    """The client cancelled the request. Not an `OISError`: no reply is expected."""


@dataclass(slots=True)
class RequestRecord:
    """What is known about one request, for its log line and the metrics."""

    #: "info", "encode", "click" or "coarse" once the request is read; "oneshot" in the ensemble's
    #: models
    kind: str = "invalid"
    session: str = "-"
    digest: str = ""
    objects: int = 0
    features: str = ""  # "hit", "miss", or "" if no features were needed
    decodes: int = 0  # runs of the decoder
    timings_ms: dict[str, float] = field(default_factory=dict)

    def log_line(self, outcome: str) -> str:
        """outcome: "ok", "cancelled" or an error's code."""
        stages = " ".join(f"{stage}={ms:.1f}" for stage, ms in self.timings_ms.items())
        parts = (
            f"ois {self.kind} {outcome} session={self.session} image={self.digest[:12] or '-'}",
            f"objects={self.objects}" if self.objects else "",
            f"features={self.features}" if self.features else "",
            f"ms: {stages}" if stages else "",
        )
        return " ".join(filter(None, parts))


#: A request for a coarse answer that waited longer than this in the queue is refused: the click's
#: full answer waits too, and a busy server then has less to do.
COARSE_PATIENCE_MS = 50.0

#: The token's names among a request's parameters, if Triton passes headers on. Proxies read the
#: first; Triton's own check of gRPC calls reads the second.
_TOKEN_PARAMETERS = (TOKEN_HEADER, f"triton-grpc-protocol-{TOKEN_HEADER}")


def salt_of(parameters: Mapping[str, Any]) -> str:
    """What keeps the features of one token apart from those of others; "" without a token.

    A client can also set these parameters itself. That gives it nothing: to share the features of
    another token it would need that token. The token itself is not kept.
    """
    given = {name.lower(): str(value) for name, value in parameters.items()}
    token = next((given[name] for name in _TOKEN_PARAMETERS if given.get(name)), "")
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest() if token else ""


class SegmentService:
    """Answers requests in the calling thread. Thread-safe."""

    def __init__(
        self,
        segmenter: Segmenter,
        options: ServingOptions | None = None,
        *,
        oneshot: bool = False,
    ) -> None:
        """oneshot: tell clients that the server has the model `ois_oneshot`."""
        self.segmenter = segmenter
        self._oneshot = oneshot
        self.options = options or ServingOptions()

    def needs_encode(
        self, tensors: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any]
    ) -> bool:
        """Whether the request probably needs an encode, which decides its queue.

        Trusts the digest that the request states. Never raises.
        """
        if "IMAGE" not in tensors:
            return False
        digest = tensors.get("DIGEST")
        if digest is None or digest.size != 1 or not isinstance(digest.flat[0], bytes):
            return True
        return not self.segmenter.holds(digest.flat[0].decode("latin-1"), self._salt(parameters))

    def handle(
        self,
        tensors: Mapping[str, NDArray[Any]],
        parameters: Mapping[str, Any],
        record: RequestRecord,
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Tensors:
        """Answer one request. Returns all outputs of the reply and fills in `record`.

        record: `timings_ms` has the time in the queue, if there was one.
        cancelled: called between the stages; if it returns True, the rest is not computed.
        Raises `OISError` of any kind, and `Cancelled`.
        """
        started = time.perf_counter()
        options = self.options
        call = read_call(
            tensors, parameters, max_objects=options.max_objects, limits=options.limits
        )
        record.session = call.session or "-"
        record.digest = call.digest or ""
        record.objects = call.objects
        record.kind = _kind(call)
        if call.digest is None:
            probe = self.segmenter.probe_size()
            return write_reply(ReplyInfo(self.segmenter.info(), probe=probe, oneshot=self._oneshot))
        _check_cancelled(cancelled)
        if record.kind == "coarse" and record.timings_ms.get("queue", 0.0) > COARSE_PATIENCE_MS:
            raise ServerOverloaded(
                f"the request for a coarse answer waited more than {COARSE_PATIENCE_MS:g} ms; the "
                "full answer does not need it"
            )
        state, cached = self._features(call, call.digest, self._salt(parameters), record)
        geometry = state.geometry
        reply = {}
        if call.objects:
            reply = self._click(state, call, record, cancelled)
        record.timings_ms["total"] = (time.perf_counter() - started) * 1e3
        info = ReplyInfo(
            self.segmenter.info(),
            digest=call.digest,
            width=geometry.width,
            height=geometry.height,
            cached=cached,
            timings_ms={stage: round(ms, 3) for stage, ms in record.timings_ms.items()},
            answer=call.answer,
        )
        return {**write_reply(info), **reply}

    def _salt(self, parameters: Mapping[str, Any]) -> str:
        return salt_of(parameters) if self.options.cache_salt else ""

    def _features(
        self, call: Call, digest: str, salt: str, record: RequestRecord
    ) -> tuple[ImageState, bool]:
        record.features = "miss"
        if call.picture is None:
            state, cached = self.segmenter.find(digest, salt), True
        else:
            encoded = self.segmenter.encode(call.picture, salt)
            record.timings_ms.update(encoded.timings_ms)
            state, cached = encoded.state, encoded.cached
        record.features = "hit" if cached else "miss"
        return state, cached

    def _click(
        self, state: ImageState, call: Call, record: RequestRecord, cancelled: Callable[[], bool]
    ) -> Tensors:
        """The outputs of a click. Masks are made one at a time, because images can be large."""
        request = call.click_request(state.geometry)
        self._check_reply_size(state, request)
        parts: list[Refined] = []
        masks: list[bytes] = []
        for start in range(0, call.objects, self.options.decode_objects):
            _check_cancelled(cancelled)
            rows = slice(start, start + self.options.decode_objects)
            refined = self.segmenter.refine(state, _rows(request, rows))
            record.decodes += refined.coarse is None
            _add(record.timings_ms, refined.timings_ms)
            mask_timings_ms: dict[str, float] = {}
            for row in range(len(refined.coverage)):
                masks.append(_encoded(refined, row, call.mask_format, mask_timings_ms))
                _add(record.timings_ms, mask_timings_ms)
            # The masks are encoded by now and logits can be large: keep only what is replied.
            parts.append(
                replace(
                    refined,
                    packed=None,
                    coarse=None,
                    logits=refined.logits if request.want_logits else None,
                )
            )
        reply: Tensors = {
            "MASKS": np.frombuffer(b"".join(masks), dtype=np.uint8),
            "MASK_SIZES": np.array([len(mask) for mask in masks], dtype=np.int64),
        }
        if request.answer is Answer.FULL:
            reply["NEW_COVERAGE"] = np.concatenate([part.coverage for part in parts])
        if request.want_logits:
            reply["LOGITS"] = np.concatenate(
                [part.logits for part in parts if part.logits is not None]
            )
        if request.want_depth and parts[0].depth is not None:
            reply["DEPTH"] = parts[0].depth
        if request.want_order:
            reply["ORDER"] = np.concatenate(
                [part.order for part in parts if part.order is not None]
            )
        return reply

    def _check_reply_size(self, state: ImageState, request: ClickRequest) -> None:
        positive = (request.labels == 1).any(axis=1).sum()
        maps = int(positive + (request.labels == 0).sum()) if request.want_order else 0
        maps += len(request.points) if request.want_logits else 0
        geometry = state.geometry
        size = maps * geometry.network_width * geometry.network_height * 4
        if size > self.options.max_reply_bytes:
            raise InvalidInput(
                f"got a request for {maps} logit and order maps, {size} bytes; the limit is "
                f"{self.options.max_reply_bytes}. Send fewer objects per request"
            )


def _kind(call: Call) -> str:
    if not call.objects:
        return "info" if call.digest is None else "encode"
    return "coarse" if call.answer is Answer.COARSE else "click"


def _encoded(refined: Refined, row: int, form: MaskFormat, timings_ms: dict[str, float]) -> bytes:
    """The mask of one object, encoded. Masks packed on a device are in the wire's form already."""
    if refined.packed is not None and form is MaskFormat.PACKED:
        return refined.packed[row].tobytes()
    with timed(timings_ms, "postprocess"):
        mask = refined.mask(row)
    with timed(timings_ms, "encode_mask"):
        return encode_mask(mask, form)


def _rows(request: ClickRequest, rows: slice) -> ClickRequest:
    """The request reduced to some of its objects."""
    return replace(
        request,
        points=request.points[rows],
        labels=request.labels[rows],
        coverage=request.coverage[rows],
        has_previous=request.has_previous[rows],
    )


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for stage, ms in more.items():
        total[stage] = total.get(stage, 0.0) + ms


def _check_cancelled(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled


class RequestQueue(Generic[Job]):
    """A bounded queue and `workers` threads that call `work` with one job after another.

    A full queue refuses further jobs at once, so that a client gets an error while its user still
    waits. Their bytes are bounded too: a request stays in the model's shared memory until it is
    answered, and that memory never shrinks. `work` must not raise.
    """

    def __init__(
        self,
        name: str,
        workers: int,
        size: int,
        work: Callable[[Job], None],
        *,
        max_bytes: float = math.inf,
    ) -> None:
        """size: jobs that may wait. max_bytes: of all jobs that wait or are worked on."""
        self._name = name
        self._max_bytes = max_bytes
        self._bytes = 0
        self._work = work
        self._jobs: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()
        self._size = size
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"ois-{name}-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, job: Job, nbytes: int = 0) -> None:
        """Add a job whose request has `nbytes`.

        Raises `ServerOverloaded` if the queue is full, `ServerUnavailable` if it is closed. A job
        that is larger than the limit is taken if there is no other.
        """
        with self._lock:
            if self._closed:
                raise ServerUnavailable("the server is shutting down; try again when it is back")
            if self._jobs.qsize() >= self._size:
                raise ServerOverloaded(
                    f"the {self._name} queue is full: {self._size} requests are waiting; try again "
                    "in a moment"
                )
            if self._bytes and self._bytes + nbytes > self._max_bytes:
                raise ServerOverloaded(
                    f"the {self._name} queue is full: its requests have {self._bytes} bytes, and "
                    f"this one {nbytes}; the limit is {self._max_bytes}. Try again in a moment"
                )
            self._bytes += nbytes
            self._jobs.put((job, nbytes))

    def waiting(self) -> int:
        """The number of jobs that no thread has taken yet."""
        return self._jobs.qsize()

    def close(self) -> None:
        """Refuse new jobs, finish the waiting ones, then return. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, nbytes = entry
            del entry
            self._work(job)
            del job  # it keeps the request's memory
            with self._lock:
                self._bytes -= nbytes
