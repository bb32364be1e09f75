"""gRPC on an event loop."""

from __future__ import annotations

from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from ois_client.transports import grpc_messages as messages
from ois_client.transports.address import Address
from ois_client.transports.exchange import Infer, Share, TritonOptions, Unshare
from ois_client.transports.failures import error_for
from ois_client.wire import Tensors


class AsyncGrpc:
    """One channel. A cancelled task's call is given up on the server too."""

    def __init__(self, address: Address, options: TritonOptions) -> None:
        self._address = address
        self._token = options.token
        chosen = messages.channel_options(address, options)
        if address.secure:
            secret = messages.credentials(options.tls)
            self._channel = grpc.aio.secure_channel(address.target, secret, chosen)
        else:
            self._channel = grpc.aio.insecure_channel(address.target, chosen)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def infer(self, infer: Infer) -> Tensors:
        request = messages.infer_request(infer)
        metadata = messages.metadata(infer.headers, self._token)
        method = self._stub.ModelInfer
        response = await self._call(method, request, metadata, infer.timeout_s, infer.within_s)
        return messages.tensors_of(response)

    async def share(self, share: Share) -> None:
        request = messages.share_request(share)
        await self._admin(self._stub.SystemSharedMemoryRegister, request, share.timeout_s)

    async def unshare(self, unshare: Unshare) -> None:
        request = messages.unshare_request(unshare)
        await self._admin(self._stub.SystemSharedMemoryUnregister, request, unshare.timeout_s)

    async def close(self) -> None:
        await self._channel.close()

    async def _admin(self, method: Any, request: Any, timeout_s: float) -> None:
        metadata = messages.metadata({}, self._token)
        await self._call(method, request, metadata, timeout_s, timeout_s)

    async def _call(
        self,
        method: Any,
        request: Any,
        metadata: list[tuple[str, str]],
        timeout_s: float,
        within_s: float,
    ) -> Any:
        try:
            return await method(request, timeout=max(timeout_s, 0), metadata=metadata)
        except grpc.RpcError as error:
            status, text = error.code().name, error.details() or ""
        except grpc.aio.UsageError as error:  # its word for a channel that is closed
            status, text = "CANCELLED", str(error)
        raise error_for(status, text, url=str(self._address), timeout_s=within_s)
