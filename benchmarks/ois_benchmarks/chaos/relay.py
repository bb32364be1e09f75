"""A TCP proxy on loopback that drops, delays, truncates or duplicates what passes through it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType

_CHUNK = 2**16
_CONNECT_S = 5.0


class Relay:
    """Passes bytes between clients and one port, until it is told to do harm. Thread-safe.

        with Relay(server_port) as relay:
            connect_to(relay.port)
            relay.drop()

    Runs an event loop in a thread of its own.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        """target: the port that connections are passed on to."""
        self._host, self._target = host, target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self._refuse = False
        self._delay_s = 0.0
        self._truncate = False
        self._duplicate = False
        self._closing = False
        self.port = 0

    # -- harm ------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Reset all connections now, and every new one, until `restore`."""
        self._refuse = True
        self._loop.call_soon_threadsafe(self._reset)

    def delay(self, seconds: float) -> None:
        """Hold every chunk, in both directions, for so long, until `restore`."""
        self._delay_s = seconds

    def truncate(self) -> None:
        """Pass on half of the next chunk of each reply, then reset its connection."""
        self._truncate = True

    def duplicate(self) -> None:
        """Send every chunk twice, in both directions, until `restore`, as TCP itself never does."""
        self._duplicate = True

    def silence(self) -> None:
        """Pass on nothing more through the connections that are open now. They stay open, as when
        a router forgets them, and new ones work."""
        self._silent |= self._open

    def restore(self) -> None:
        """Do no more harm. Connections that were reset stay so."""
        self._refuse = self._truncate = self._duplicate = False
        self._delay_s = 0.0

    # -- the proxy -------------------------------------------------------------------------------

    def __enter__(self) -> Relay:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, self._host, 0), self._loop
        )
        self._server = starting.result()
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._closing = True
        self._server.close()
        self._reset()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)  # they end when their connections do

    def _reset(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuse:
            writer.transport.abort()
            return
        try:
            server = await asyncio.wait_for(
                asyncio.open_connection(self._host, self._target), _CONNECT_S
            )
        except OSError:  # the server is down; so is this connection
            writer.transport.abort()
            return
        both = {writer, server[1]}
        self._open |= both
        if self._closing:
            self._reset()
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pump(reader, server[1]))
                ways.create_task(self._pump(server[0], writer, replies=True))
        except* OSError:
            pass
        finally:
            for one in both:
                one.transport.abort()
            self._open -= both
            self._silent -= both

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool = False
    ) -> None:
        while data := await reader.read(_CHUNK):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            if writer in self._silent:
                continue
            cut = replies and self._truncate
            writer.write(data[: len(data) // 2] if cut else data)
            if self._duplicate:
                writer.write(data)
            await writer.drain()
            if cut:
                raise ConnectionResetError("a reply was truncated")
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()
