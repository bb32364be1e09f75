"""The gateway's life: a thread with an event loop, listening on a loopback address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import uvicorn

from ois_cli.demo.gateway.app import GatewayApp
from ois_cli.demo.gateway.http import Guard
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.transport import check_compatible
from ois_client.sessions.async_client import open_transport

#: Browsers keep what an open page stores under its address, port included: a gateway that is
#: started again should be where the page was.
USUAL_PORT = 8360

#: Engines in this process answer in these threads; a click that was given up before its turn
#: never starts.
_THREADS = 4
_STOP_S = 5


class Gateway:
    """A context manager: enter to serve, leave to stop.

    url, options: of the engines, as of `ois_client.AsyncClient`. where: what the page calls
    their place. host: a loopback address. port: None takes the usual one, or a free one where
    that is taken; 0 a free one.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        where: str = "",
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        """Raises `InvalidInput` for an address that others can reach, `EngineError` for a port
        that is taken."""
        self._url = url
        self._options = dict(options or {})
        self._where = where or url
        self._socket = _listen(host, port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._server: uvicorn.Server | None = None
        self._problem: BaseException | None = None
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ois-gateway", daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{_bracketed(self.host)}:{self.port}/"

    def start(self) -> Gateway:
        """Returns once the page answers. Raises what reaching the engines raises."""
        self._thread.start()
        self._settled.wait()
        self._raise_problem()
        return self

    def stop(self) -> None:
        """Let requests in flight finish, for some seconds. Twice is fine."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`. Raises why, if not because of `stop`."""
        self._thread.join(timeout_s)
        self._raise_problem()
        return not self._thread.is_alive()

    def __enter__(self) -> Gateway:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _raise_problem(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # raised again where it is waited for
            self._problem = error
        finally:
            self._settled.set()

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        transport = await open_transport(self._url, self._options)
        try:
            info = await transport.info()
            check_compatible(info)
            app = Guard(GatewayApp(transport, info, self._where).starlette(), self._names())
            config = uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_S,
            )
            self._server = _Server(config, self._settled)
            await self._server.serve(sockets=[self._socket])
        finally:
            await transport.close()

    def _names(self) -> list[str]:
        hosts = {_bracketed(self.host), "localhost"}
        return [f"{host}:{self.port}" for host in sorted(hosts)]


class _Server(uvicorn.Server):
    """Says when it listens. Signals are the main thread's business, not its own."""

    def __init__(self, config: uvicorn.Config, listening: threading.Event) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()


def _listen(host: str, port: int | None) -> socket.socket:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise InvalidInput(f"got the host {host!r}; expected an address: 127.0.0.1") from None
    if not address.is_loopback:
        raise InvalidInput(
            f"got the host {host}; expected a loopback address such as 127.0.0.1: the page has no "
            "password, and whoever reaches it uses these engines. From another machine, forward "
            f"the port: ssh -L {port or USUAL_PORT}:127.0.0.1:{port or USUAL_PORT} HOST"
        )
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    for wanted in (USUAL_PORT, 0) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, wanted))
            listener.listen(128)
        except OSError as error:
            listener.close()
            problem = error
        else:
            return listener
    raise EngineError(
        f"the address {host}:{port} cannot be used: {problem.strerror}; stop what listens there, "
        "or choose another --port"
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
