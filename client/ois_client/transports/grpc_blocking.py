"""gRPC with threads."""

from __future__ import annotations

from typing import Any

import grpc
from grpc.experimental import ChannelOptions
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ois_client.contract.cancellation import Cancellation
from ois_client.contract.errors import IncompatibleServer, OISError
from ois_client.transports import grpc_messages as messages
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, Share, TritonOptions, Unshare
from ois_client.transports.failures import error_for
from ois_client.wire import Tensors

#: The calling thread itself waits for the answer: a tenth of a millisecond less a click than
#: gRPC's futures, which wake one thread that wakes another. Its blocking calls do the same but
#: cannot be cancelled; calls that stream can, and to the wire one answer is a stream of one.
_IN_THIS_THREAD = (ChannelOptions.SingleThreadedUnaryStream, 1)
_INFER = "/inference.GRPCInferenceService/ModelInfer"


class BlockingGrpc:
    """One channel. A call given up here is given up on the server too."""

    def __init__(self, address: Address, options: TritonOptions) -> None:
        self._address = address
        self._token = options.token
        chosen = [*messages.channel_options(address, options), _IN_THIS_THREAD]
        if address.secure:
            secret = messages.credentials(options.tls)
            self._channel = grpc.secure_channel(address.target, secret, chosen)
        else:
            self._channel = grpc.insecure_channel(address.target, chosen)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = self._channel.unary_stream(
            _INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )

    def infer(self, infer: Infer, cancellation: Cancellation) -> Tensors:
        request = messages.infer_request(infer)
        metadata = messages.metadata(infer.headers, self._token)
        try:
            call = self._infer(request, timeout=max(infer.timeout_s, 0), metadata=metadata)
        except ValueError as error:  # grpc's word for a channel that is closed
            raise self._error("CANCELLED", str(error), infer.within_s) from error
        cancellation.then(call.cancel)
        try:
            responses = list(call)
        except grpc.RpcError as error:
            raise self._error_of(error, infer.within_s) from error
        except BaseException:  # Ctrl-C
            call.cancel()
            raise
        if len(responses) != 1:
            raise IncompatibleServer(
                f"the server at {self._address} answered with {len(responses)} messages; expected "
                "one. Is this the gRPC address of a Triton server?"
            )
        return messages.tensors_of(responses[0])

    def share(self, share: Share) -> None:
        request = messages.share_request(share)
        self._call(self._stub.SystemSharedMemoryRegister, request, share.timeout_s)

    def unshare(self, unshare: Unshare) -> None:
        request = messages.unshare_request(unshare)
        self._call(self._stub.SystemSharedMemoryUnregister, request, unshare.timeout_s)

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_s: float) -> None:
        try:
            method(request, timeout=timeout_s, metadata=messages.metadata({}, self._token))
        except grpc.RpcError as error:
            raise self._error_of(error, timeout_s) from error
        except ValueError as error:
            raise self._error("CANCELLED", str(error), timeout_s) from error

    def _error_of(self, error: Any, timeout_s: float) -> OISError:
        return self._error(error.code().name, error.details() or "", timeout_s)

    def _error(self, status: str, text: str, timeout_s: float) -> OISError:
        return error_for(status, text, url=str(self._address), timeout_s=timeout_s)
