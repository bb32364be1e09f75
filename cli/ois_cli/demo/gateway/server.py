"""The gateway's server: a thread with an event loop that listens on a loopback address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import uvicorn

from ois_cli.demo.gateway.app import GatewayApp
from ois_cli.demo.gateway.attention import AttentionNetwork
from ois_cli.demo.gateway.files import ImageFolder
from ois_cli.demo.gateway.http import Guard
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.transport import check_compatible
from ois_client.sessions.async_client import open_transport

#: A browser stores the page's data per address and port, so a restarted gateway should use the
#: same port.
USUAL_PORT = 8360

#: Threads for engines in this process. Clicks that are cancelled while they wait never start.
_THREADS = 4
_STOP_S = 5


class Gateway:
    """Serves the demo's page. Use it as a context manager or call `start` and `stop`.

    url, options: of the engines, as for `ois_client.AsyncClient`. where: the engines' location, as
    the page shows it. host: a loopback address. port: 0 takes a free port; None takes the usual
    port, or a free one if that is taken. folder, classes, attention: as for `GatewayApp`.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        where: str = "",
        host: str = "127.0.0.1",
        port: int | None = None,
        folder: ImageFolder | None = None,
        classes: Sequence[str] = (),
        attention: AttentionNetwork | None = None,
    ) -> None:
        """Raises `InvalidInput` if others can reach the address, `EngineError` if it is taken."""
        self._url = url
        self._options = dict(options or {})
        self._where = where or url
        self._content: dict[str, Any] = {
            "folder": folder,
            "classes": classes,
            "attention": attention,
        }
        self._socket = _listen(host, port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._server: uvicorn.Server | None = None
        self._problem: BaseException | None = None
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ois-gateway", daemon=True)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{_bracketed(self.host)}:{self.port}/"

    def start(self) -> Gateway:
        """Start serving; returns when the page can be opened.

        Raises what the transport raises if the engines cannot be reached.
        """
        self._thread.start()
        self._settled.wait()
        self._raise_problem()
        return self

    def stop(self) -> None:
        """Stop serving. Requests in progress get a few seconds. May be called twice."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait and return whether the gateway ended. Raises the error if one ended it."""
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
        except BaseException as error:  # raised again by `start` and `wait`
            self._problem = error
        finally:
            self._settled.set()

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        transport = await open_transport(self._url, self._options)
        try:
            info = await transport.info()
            check_compatible(info)
            routes = GatewayApp(transport, info, self._where, **self._content).starlette()
            app = Guard(routes, self._hosts())
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

    def _hosts(self) -> list[str]:
        names = {_bracketed(self.host), "localhost"}
        return [f"{name}:{self.port}" for name in sorted(names)]


class _Server(uvicorn.Server):
    """Sets an event when it listens."""

    def __init__(self, config: uvicorn.Config, listening: threading.Event) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()


def check_host(host: str, port: int | None = None) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of this machine that the page may have. Raises `InvalidInput` for another."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise InvalidInput(
            f"got the host {host!r}; expected an IP address, such as 127.0.0.1"
        ) from None
    if not address.is_loopback:
        raise InvalidInput(
            f"got the host {host}; expected a loopback address such as 127.0.0.1, because the page "
            "has no password. To use it from another machine, forward the port: "
            f"ssh -L {port or USUAL_PORT}:127.0.0.1:{port or USUAL_PORT} HOST"
        )
    return address


def _listen(host: str, port: int | None) -> socket.socket:
    address = check_host(host, port)
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
        f"the address {host}:{port} cannot be used: {problem.strerror}; stop the program that "
        "listens there, or choose another --port"
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
