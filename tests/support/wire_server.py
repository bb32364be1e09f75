"""A server in this process with real gRPC and HTTP, for faults that Triton cannot show on demand.

Such faults are late answers, refusals, cut connections and other contracts. Its network is
`support.disks.Disks`. `tests/scenarios/server` tests the real server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ois_client import wire
from ois_client.contract.errors import OISError, UnknownImage
from ois_client.wire.schema import from_bytes, to_bytes
from support.disks import Disks

#: Replaces an answer: (gRPC status, HTTP status, text).
Fault = tuple[grpc.StatusCode, int, str]

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, 503, "Exceeds maximum queue size")
_TRITON = {
    "NOT_FOUND": (grpc.StatusCode.NOT_FOUND, 404),
    "INVALID_ARG": (grpc.StatusCode.INVALID_ARGUMENT, 400),
    "UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, 503),
    "INTERNAL": (grpc.StatusCode.INTERNAL, 500),
}


class WireServer:
    """A context manager. `urls` are by protocol; tests read and set the other attributes."""

    def __init__(self, *, credentials: Any = None, mapping: bool = False, port: int = 0) -> None:
        self.disks = Disks()
        self.faults: list[Fault | Callable[[], None]] = []
        self.calls: list[wire.Call] = []
        self.headers: list[dict[str, str]] = []
        self.deadlines_s: list[float] = []
        self.delay_s = 0.0
        self.info: Callable[[wire.ReplyInfo], str] = wire.ReplyInfo.to_json
        self.token: str | None = None
        self.given_up = 0
        self.model_sha256 = "aa" * 32
        self.shared: dict[str, str] = {}
        self.regions = 0
        self.connections: set[socket.socket] = set()
        self._mapping = mapping
        self._stop = threading.Event()
        self._grpc = grpc.server(
            ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)]
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Grpc(self), self._grpc)
        if credentials is None:
            grpc_port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        else:
            grpc_port = self._grpc.add_secure_port("127.0.0.1:0", credentials)
        self._http = ThreadingHTTPServer(("127.0.0.1", port and port + 1), _handler(self))
        self._http.daemon_threads = True
        self.urls = {
            "grpc": f"grpc{'s' if credentials else ''}://localhost:{grpc_port}",
            "http": f"http://127.0.0.1:{self._http.server_address[1]}",
        }

    def __enter__(self) -> WireServer:
        self._grpc.start()
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._grpc.stop(None).wait()
        self._http.shutdown()
        for connection in tuple(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join()

    # -- what both protocols do ------------------------------------------------------------

    def sleep(self, active: Callable[[], bool]) -> None:
        end = time.monotonic() + self.delay_s
        while time.monotonic() < end and not self._stop.is_set():
            if not active():
                self.given_up += 1
                raise Refused((grpc.StatusCode.CANCELLED, 499, "given up"))
            time.sleep(0.005)

    def answer(
        self, tensors: wire.Tensors, parameters: Mapping[str, Any], wanted: list[str]
    ) -> wire.Tensors:
        """Raises `OISError`, or `Refused` with a fault."""
        if self.faults:
            fault = self.faults.pop(0)
            if callable(fault):
                fault()
            else:
                raise Refused(fault)
        call = wire.read_call(tensors, parameters)
        self.calls.append(call)
        model = dataclasses.replace(self.disks.info(), model_sha256=self.model_sha256)
        info, reply = wire.ReplyInfo(model, call.digest or ""), None
        if call.picture is not None:
            info = dataclasses.replace(info, cached=self.disks.encode(call.picture).cached)
        if call.digest is not None:
            fit = self.disks.images.get(call.digest)
            if fit is None:
                raise UnknownImage(f"no features of {call.digest[:12]}")
            info = dataclasses.replace(info, width=fit.width, height=fit.height)
            if call.objects:
                reply = self.disks.click(call.click_request(fit))
        made = wire.write_reply(info, reply, mask_format=call.mask_format)
        made["INFO"] = np.frombuffer(self.info(info).encode(), dtype=np.uint8)
        return {name: made[name] for name in wanted if name in made}

    def input_of(
        self, name: str, datatype: str, shape: list[int], data: bytes | None, region: str
    ) -> Any:
        if data is None:
            if region not in self.shared:
                raise Refused((grpc.StatusCode.INVALID_ARGUMENT, 400, f"no region '{region}'"))
            data = Path(f"/dev/shm{self.shared[region]}").read_bytes()[: shape[0]]
            self.regions += 1
        return from_bytes(name, datatype, shape, data)

    def register(self, region: str, key: str) -> None:
        if not self._mapping:
            raise Refused((grpc.StatusCode.UNAVAILABLE, 403, "This API is restricted"))
        self.shared[region] = key


class Refused(Exception):
    """Carries a fault to the code of the protocol."""


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, server: WireServer) -> None:
        self.server = server

    def ModelInfer(self, request: Any, context: Any) -> Any:
        server = self.server
        headers = dict(context.invocation_metadata())
        server.headers.append(headers)
        server.deadlines_s.append(context.time_remaining())
        if server.token not in (None, headers.get("triton-grpc-protocol-authorization")):
            context.abort(
                grpc.StatusCode.UNAVAILABLE,
                "This protocol is restricted, expecting header 'triton-grpc-protocol-x'",
            )
        contents = list(request.raw_input_contents)
        try:
            server.sleep(context.is_active)
            tensors = {}
            for item in request.inputs:
                region = item.parameters["shared_memory_region"].string_param
                data = None if region else contents.pop(0)
                tensors[item.name] = server.input_of(
                    item.name, item.datatype, list(item.shape), data, region
                )
            parameters = {key: value.string_param for key, value in request.parameters.items()}
            made = server.answer(tensors, parameters, [one.name for one in request.outputs])
        except Refused as refused:
            status, _, text = refused.args[0]
            context.abort(status, text)
        except OISError as error:
            context.abort(_TRITON[wire.triton_code(error)][0], wire.error_text(error))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, array in made.items():
            response.outputs.add(name=name, datatype=wire.OUTPUTS[name].datatype, shape=array.shape)
            response.raw_output_contents.append(to_bytes(array))
        return response

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        try:
            self.server.register(request.name, request.key)
        except Refused as refused:
            context.abort(refused.args[0][0], refused.args[0][2])
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        self.server.shared.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()


def _handler(server: WireServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.connections.add(self.connection)

        def finish(self) -> None:
            server.connections.discard(self.connection)
            with contextlib.suppress(OSError):
                super().finish()

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            server.headers.append({key.lower(): value for key, value in self.headers.items()})
            try:
                if server.token not in (None, self.headers.get("authorization")):
                    fault = "This API is restricted, expecting header 'authorization'"
                    raise Refused((grpc.StatusCode.UNAVAILABLE, 403, fault))
                self._post(self.path, body)
            except Refused as refused:
                _, status, text = refused.args[0]
                self._send(status, json.dumps({"error": text}).encode())
            except OISError as error:
                status = _TRITON[wire.triton_code(error)][1]
                self._send(status, json.dumps({"error": wire.error_text(error)}).encode())

        def _post(self, path: str, body: bytes) -> None:
            if "/systemsharedmemory/" in path:
                region, action = path.split("/")[-2:]
                if action == "register":
                    server.register(region, json.loads(body)["key"])
                else:
                    server.shared.pop(region, None)
                self._send(200, b"")
                return
            server.sleep(lambda: True)
            end = int(self.headers["inference-header-content-length"])
            described = json.loads(body[:end])
            tensors = {}
            for item in described["inputs"]:
                region = item["parameters"].get("shared_memory_region", "")
                size = item["parameters"].get("binary_data_size", 0)
                data = None if region else body[end : end + size]
                end += size
                tensors[item["name"]] = server.input_of(
                    item["name"], item["datatype"], item["shape"], data, region
                )
            wanted = [one["name"] for one in described["outputs"]]
            made = server.answer(tensors, described["parameters"], wanted)
            contents = [to_bytes(array) for array in made.values()]
            outputs = [
                {
                    "name": name,
                    "datatype": wire.OUTPUTS[name].datatype,
                    "shape": array.shape,
                    "parameters": {"binary_data_size": len(data)},
                }
                for (name, array), data in zip(made.items(), contents, strict=True)
            ]
            text = json.dumps({"id": described.get("id", ""), "outputs": outputs}).encode()
            self._send(200, b"".join([text, *contents]), len(text))

        def _send(self, status: int, body: bytes, json_length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if json_length is not None:
                self.send_header("Inference-Header-Content-Length", str(json_length))
            self.end_headers()
            self.wfile.write(body)

    return Handler
