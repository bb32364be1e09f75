"""`Infer` -> protobuf -> tensors, and the channel's options: what both gRPC ways share.

The messages and the stub are tritonclient's generated ones. Its client classes are left out:
they hide a call's status and its future, and exist twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import service_pb2

from ois_client.contract.errors import IncompatibleServer
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, Share, TritonOptions, Unshare
from ois_client.transports.settings import TLS
from ois_client.transports.tensors import from_bytes, to_bytes
from ois_client.wire import INPUTS, MODEL, TOKEN_HEADER, Tensors


def infer_request(infer: Infer) -> Any:
    """The protobuf `ModelInferRequest`."""
    message = infer.message
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for name, array in message.tensors.items():
        tensor = request.inputs.add(name=name, datatype=INPUTS[name].datatype, shape=array.shape)
        memory = infer.shared.get(name)
        if memory is None:
            request.raw_input_contents.append(to_bytes(array))
        else:
            tensor.parameters["shared_memory_region"].string_param = memory.region
            tensor.parameters["shared_memory_byte_size"].int64_param = memory.size
    for name in message.outputs:
        request.outputs.add(name=name)
    for key, value in message.parameters.items():
        request.parameters[key].string_param = value
    return request


def tensors_of(response: Any) -> Tensors:
    """The outputs of a `ModelInferResponse`. Raises `IncompatibleServer` when they disagree."""
    contents = response.raw_output_contents
    if len(contents) != len(response.outputs):
        raise IncompatibleServer(
            f"the server answered with {len(response.outputs)} outputs and {len(contents)} "
            "contents; expected binary data for each"
        )
    return {
        output.name: from_bytes(output.name, output.datatype, tuple(output.shape), data)
        for output, data in zip(response.outputs, contents, strict=True)
    }


def share_request(share: Share) -> Any:
    memory = share.memory
    return service_pb2.SystemSharedMemoryRegisterRequest(
        name=memory.region, key=memory.key, offset=0, byte_size=memory.size
    )


def unshare_request(unshare: Unshare) -> Any:
    return service_pb2.SystemSharedMemoryUnregisterRequest(name=unshare.region)


def metadata(headers: Mapping[str, str], token: str | None) -> list[tuple[str, str]]:
    """A token goes under two names: Triton's for a restricted protocol, and the usual one."""
    pairs = list(headers.items())
    if token is not None:
        pairs += [(f"triton-grpc-protocol-{TOKEN_HEADER}", token), (TOKEN_HEADER, token)]
    return pairs


def channel_options(address: Address, options: TritonOptions) -> list[tuple[str, int]]:
    """Messages of any size, keepalive, and no retries but ours."""
    timeouts = options.timeouts
    connect_ms = max(1, int(timeouts.connect_s * 1000))
    chosen = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", max(1, int(timeouts.keepalive_s * 1000))),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.enable_retries", 0),
        # How soon a channel tries to connect again, and how long one try may take.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.min_reconnect_backoff_ms", connect_ms),
        # Channels to one address would share a connection, and its failures.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.loopback:
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen


def credentials(tls: TLS | None) -> Any:
    import grpc

    ca, key, certificate = (tls or TLS()).read()
    return grpc.ssl_channel_credentials(ca, key, certificate)
