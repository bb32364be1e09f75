"""The model `ois_segment`: connects `SegmentService` to Triton.

`execute` puts requests into one of two queues and returns; threads answer them through response
senders. One user's encode therefore never blocks another user's click. A request for the server's
description is answered at once: it is cheap, and health checks use it, so it must not wait behind
clicks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from ois_client.contract.errors import EngineError, OISError
from ois_client.contract.transport import Region
from ois_client.wire import ONESHOT_MODEL, Tensors
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import EnginePair
from ois_runtime.engines.segmenter import Segmenter
from ois_runtime.serving.configuration import (
    ServingOptions,
    decodes_in_process,
    load_manifest,
    read_options,
)
from ois_runtime.serving.metric_families import TritonMetrics
from ois_runtime.serving.metrics import AnsweredRequest, Publisher
from ois_runtime.serving.service import Cancelled, RequestQueue, RequestRecord, SegmentService
from ois_runtime.serving.triton_engines import DECODER, TritonEngines, local_decoder_engines
from ois_runtime.serving.triton_io import (
    cancelled_response,
    error_response,
    initialization_error,
    make_shared_memory_private,
    read_inputs,
    read_parameters,
    response,
)

#: Younger requests are not checked for cancellation: the check takes a tenth of a millisecond, as
#: it is a call to Triton's process, and hardly any click is cancelled so soon.
_CANCELLATION_CHECK_AFTER_S = 0.005


def decoder_file(arguments: Mapping[str, str]) -> Path:
    """The path of `ois_decoder`'s ONNX file, which is missing if the decoder is a TensorRT plan."""
    models = Path(arguments["model_repository"]).parent
    return models / DECODER / arguments["model_version"] / "model.onnx"


def serves_oneshot(arguments: Mapping[str, str], options: ServingOptions) -> bool:
    """Whether the server has the model `ois_oneshot` for clicks of any round.

    With `torch_device` it loads `ois_segment` only, and in repositories of earlier exports
    `ois_oneshot` takes first clicks only.
    """
    config = Path(arguments["model_repository"]).parent / ONESHOT_MODEL / "config.pbtxt"
    try:
        return not options.torch_device and '"HAS_PREVIOUS"' in config.read_text(encoding="utf-8")
    except OSError:
        return False


def choose_engines(
    manifest: Manifest, options: ServingOptions, decoder: Path, own: Path | None = None
) -> EnginePair:
    """The engines that `options` select.

    decoder: the ONNX file of `ois_decoder`, which may be missing. own: the folder of this model's
    version, with the decoder's parts if there are any. Raises `EngineError` if the engines cannot
    run here.
    """
    if not (options.torch_device or options.feature_device):
        if decodes_in_process(manifest, options, decoder):
            parts = options.region == Region.AUTO
            return local_decoder_engines(manifest, decoder, own if parts else None)
        return TritonEngines(manifest)
    try:
        from ois_runtime.serving.device_engines import DeviceEngines, torch_engines
    except ImportError as error:
        raise EngineError(
            f"torch_device and feature_device need PyTorch in the environment of Triton's Python "
            f"models ({error}); install 'ois-deploy[network]' there, or set neither"
        ) from error
    if options.torch_device:
        return torch_engines(manifest, options)
    return DeviceEngines(manifest, options.feature_device)


@dataclass(slots=True, eq=False)
class Job:
    """One waiting request and the sender of its response.

    `request` is kept because `tensors` are views of its memory.
    """

    request: Any
    sender: Any
    tensors: Tensors
    parameters: Mapping[str, Any]
    arrived: float = field(default_factory=time.perf_counter)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(array.nbytes for array in self.tensors.values())

    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the request."""
        waited_s = time.perf_counter() - self.arrived
        return waited_s > _CANCELLATION_CHECK_AFTER_S and bool(self.request.is_cancelled())


class SegmentModel:
    """The class that Triton calls. One instance per server, because it owns the feature store."""

    def initialize(self, args: Mapping[str, str]) -> None:
        make_shared_memory_private()
        options = read_options(args)
        try:
            own = Path(args["model_repository"]) / args["model_version"]
            engines = choose_engines(load_manifest(args), options, decoder_file(args), own)
        except OISError as error:
            raise initialization_error(error) from None
        segmenter = Segmenter(engines, cache_bytes=options.cache_bytes, ttl_s=options.cache_ttl_s)
        oneshot = serves_oneshot(args, options)
        self._service = SegmentService(segmenter, options, oneshot=oneshot)
        self._publisher = Publisher(
            TritonMetrics(),
            segmenter.stats,
            pb_utils.Logger.log_info,
            host_bytes=lambda: getattr(engines, "host_bytes", 0),
        )
        size, work, most = options.queue, self._work, options.queue_bytes
        self._encodes: RequestQueue[Job] = RequestQueue(
            "encode", options.encode_workers, size, work, max_bytes=most
        )
        self._clicks: RequestQueue[Job] = RequestQueue(
            "click", options.click_workers, size, work, max_bytes=most
        )

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                job = Job(request, sender, read_inputs(request), read_parameters(request))
                if not job.tensors:
                    self._work(job)
                elif self._service.needs_encode(job.tensors, job.parameters):
                    self._encodes.add(job, job.nbytes)
                else:
                    self._clicks.add(job, job.nbytes)
            except Exception as error:
                code = getattr(error, "code", "INTERNAL")
                self._publisher.report(AnsweredRequest("refused", code, 0))
                _send(sender, error_response(error))

    def finalize(self) -> None:
        # Triton counts a request as finished when `execute` returns, so the waiting is done here.
        self._encodes.close()
        self._clicks.close()
        self._publisher.close()
        self._service.segmenter.close()

    def _work(self, job: Job) -> None:
        record = RequestRecord()
        record.timings_ms["queue"] = (time.perf_counter() - job.arrived) * 1e3
        outcome = "ok"
        try:
            tensors = self._service.handle(
                job.tensors, job.parameters, record, cancelled=job.is_cancelled
            )
            reply = response(job.request, tensors)
        except Cancelled:
            outcome = "cancelled"
            reply = cancelled_response()
        except BaseException as error:  # an exception would end the thread that calls this
            outcome = getattr(error, "code", "INTERNAL")
            reply = error_response(error)
        seconds = time.perf_counter() - job.arrived
        self._publisher.report(
            AnsweredRequest(record.kind, outcome, seconds, record.features, record.decodes)
        )
        _send(job.sender, reply)
        if record.session != "probe":
            self._publisher.log(record.log_line(outcome))


def _send(sender: Any, reply: Any) -> None:
    try:
        sender.send(reply, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # the client has gone, or Triton is stopping
        pb_utils.Logger.log_warn(f"ois: a response could not be sent: {error}")
