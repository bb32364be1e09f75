"""The model `ois_segment` as Triton runs it: `SegmentService` with Triton's tensors around it.

`execute` only puts requests into a line and returns; threads answer them through response
senders. So one user's encode blocks nobody's click, and a plain gRPC or HTTP request works.
A request for the description alone is answered there and then: it costs nothing, and whoever
asks wants to know whether the server lives, which a line of clicks must not hide.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from ois_client.contract.errors import EngineError, OISError, ServerOverloaded
from ois_client.wire import Tensors, error_text, triton_code
from ois_runtime.engines.base import EnginePair
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.segmenter import Segmenter
from ois_runtime.serving.configuration import ServingOptions
from ois_runtime.serving.limits import load_manifest
from ois_runtime.serving.metrics import (
    BUCKETS,
    COUNTERS,
    DECODES,
    GAUGES,
    HISTOGRAMS,
    REQUESTS,
    Answered,
    Publisher,
)
from ois_runtime.serving.request_counter import Busy
from ois_runtime.serving.service import Cancelled, Record, SegmentService
from ois_runtime.serving.triton_engines import DECODER, TritonEngines, near_engines
from ois_runtime.serving.workers import Line


def read_options(arguments: Mapping[str, str]) -> ServingOptions:
    """The options in a model's config and in the environment."""
    config = json.loads(arguments["model_config"]).get("parameters", {})
    parameters = {name: value["string_value"] for name, value in config.items()}
    return ServingOptions.read(parameters, os.environ)


def decoder_file(arguments: Mapping[str, str]) -> Path:
    """Where the graph of the model `ois_decoder` lies, if it is one for ONNX Runtime."""
    models = Path(arguments["model_repository"]).parent
    return models / DECODER / arguments["model_version"] / "model.onnx"


def choose_engines(manifest: Manifest, options: ServingOptions, decoder: Path) -> EnginePair:
    """What runs the network, see `ServingOptions`. Raises `EngineError` where it cannot run."""
    if not (options.torch_device or options.feature_device):
        near = options.decoder == "process" or (
            options.decoder == "auto"
            and manifest.target == "cpu"
            and decoder.is_file()
            and find_spec("onnxruntime") is not None
        )
        return near_engines(manifest, decoder) if near else TritonEngines(manifest)
    try:
        from ois_runtime.serving.device_engines import DeviceEngines, torch_engines
    except ImportError as error:
        raise EngineError(
            f"this server's models need PyTorch for a device ({error}); install "
            "'ois-deploy[network]' where they run, or set no device"
        ) from error
    if options.torch_device:
        return torch_engines(manifest, options)
    return DeviceEngines(manifest, options.feature_device)


def error_of(error: BaseException) -> Any:
    """Triton's error for one of ours. What is not ours goes to the log, never to a client."""
    if isinstance(error, MemoryError):
        error = ServerOverloaded("the server is out of memory; try again with fewer objects")
    if not isinstance(error, OISError):
        trace = "".join(traceback.format_exception(error))
        pb_utils.Logger.log_error(f"ois: a request failed inside:\n{trace}")
    return pb_utils.TritonError(
        error_text(error), getattr(pb_utils.TritonError, triton_code(error))
    )


#: So young a request is not asked about: hardly anybody takes a click back so soon.
_WORTH_ASKING_S = 0.005


@dataclass(slots=True, eq=False)
class Job:
    """One request in a line, and where its answer goes. Holding `request` keeps its memory."""

    request: Any
    sender: Any
    tensors: Tensors
    arrived: float = field(default_factory=time.perf_counter)

    def is_cancelled(self) -> bool:
        """Whether its client has given it up. Triton's process is asked, twice a click: a tenth of
        a millisecond, more than the answer is worth to a click that comes to its turn at once.
        """
        waited_s = time.perf_counter() - self.arrived
        return waited_s > _WORTH_ASKING_S and bool(self.request.is_cancelled())


class SegmentModel:
    """Triton's three calls. One instance a server: it owns the feature store."""

    def initialize(self, args: Mapping[str, str]) -> None:
        options = read_options(args)
        try:
            engines = choose_engines(load_manifest(args), options, decoder_file(args))
        except OISError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        segmenter = Segmenter(engines, cache_bytes=options.cache_bytes, ttl_s=options.cache_ttl_s)
        self._service = SegmentService(segmenter, options)
        self._publisher = Publisher(TritonMetrics(), segmenter.stats, pb_utils.Logger.log_info)
        self._busy = Busy()
        queue, work = options.queue, self._work
        self._encodes: Line[Job] = Line("encode", options.encode_workers, queue, work)
        self._clicks: Line[Job] = Line("click", options.click_workers, queue, work)

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            self._busy.begin()
            try:
                tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
                job = Job(request, sender, tensors)
                if not tensors:
                    self._work(job)
                    continue
                slow = self._service.brings_new_image(tensors)
                (self._encodes if slow else self._clicks).add(job)
            except Exception as error:
                code = getattr(error, "code", "INTERNAL")
                self._publisher.report(Answered("refused", code, 0))
                _send(sender, pb_utils.InferenceResponse(error=error_of(error)))
                self._busy.end()

    def finalize(self) -> None:
        # Triton regards a request as finished when `execute` returns: only this waits for them.
        self._encodes.close()
        self._clicks.close()
        self._publisher.close()
        self._service.segmenter.close()

    def _work(self, job: Job) -> None:
        record = Record()
        record.timings_ms["queue"] = (time.perf_counter() - job.arrived) * 1e3
        outcome = "ok"
        try:
            tensors = self._service.handle(
                job.tensors,
                json.loads(job.request.parameters() or "{}"),
                record,
                cancelled=job.is_cancelled,
            )
            wanted = set(job.request.requested_output_names())
            response = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array) for name, array in tensors.items() if name in wanted]
            )
        except Cancelled:
            outcome = "cancelled"
            code = pb_utils.TritonError.CANCELLED
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", code))
        except BaseException as error:  # a worker that dies would take its line with it
            outcome = getattr(error, "code", "INTERNAL")
            response = pb_utils.InferenceResponse(error=error_of(error))
        seconds = time.perf_counter() - job.arrived
        self._publisher.report(
            Answered(record.kind, outcome, seconds, record.features, record.decodes)
        )
        _send(job.sender, response)
        self._busy.end()
        if record.session != "probe":
            self._publisher.say(record.line(outcome))


def _send(sender: Any, response: Any) -> None:
    try:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # the client is gone, or Triton is going
        pb_utils.Logger.log_warn(f"ois: an answer could not be sent: {error}")


class TritonMetrics:
    """`serving_metrics.Metrics` in Triton's own Prometheus endpoint."""

    def __init__(self) -> None:
        family = pb_utils.MetricFamily
        names = {name: (text, family.COUNTER) for name, (text, _) in COUNTERS.items()}
        names |= {name: (text, family.GAUGE) for name, (text, _) in GAUGES.items()}
        names |= {name: (text, family.HISTOGRAM) for name, text in HISTOGRAMS.items()}
        names |= {name: (text, family.COUNTER) for name, text in (REQUESTS, DECODES)}
        self._families = {
            name: family(name=name, description=text, kind=kind)
            for name, (text, kind) in names.items()
        }
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        for name in names.keys() - {REQUESTS[0]}:
            self._metric(name, {})  # so that all are there, at zero, before the first request

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._metric(name, labels).increment(value)

    def set(self, name: str, value: float) -> None:
        self._metric(name, {}).set(value)

    def observe(self, name: str, value: float) -> None:
        self._metric(name, {}).observe(value)

    def _metric(self, name: str, labels: Mapping[str, str]) -> Any:
        key = name, tuple(sorted(labels.items()))
        if key not in self._metrics:
            more = {"buckets": BUCKETS} if name in HISTOGRAMS else {}
            self._metrics[key] = self._families[name].Metric(labels=dict(labels), **more)
        return self._metrics[key]
