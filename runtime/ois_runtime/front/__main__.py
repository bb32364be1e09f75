"""`python -m ois_runtime.front`: takes settings as one line on stdin, and runs until SIGTERM.

After SIGTERM it refuses new connections, waits for the requests in progress, and ends. It prints
nothing but errors. `ois_runtime/embedded/guard.py` starts and stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys

from ois_runtime.front.grpc import GrpcFront
from ois_runtime.front.http import HttpFront, MetricsFront
from ois_runtime.front.settings import FrontSettings
from ois_runtime.front.work import Work


async def serve(settings: FrontSettings) -> None:
    """Until SIGTERM. Raises `OSError` if a port is taken."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    work = Work(settings.token)
    http, metrics = HttpFront(settings, work), MetricsFront(settings)
    grpc = GrpcFront(settings, work)
    try:
        for one in (http, metrics, grpc):
            await one.start()
        settings.listening.touch()
        await stop.wait()
        http.stop_listening()
        ending = grpc.stop_listening(settings.grace_s)
        await work.ended(settings.grace_s)
        await grpc.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await ending
    finally:
        for one in (grpc, http, metrics):
            await one.stop()


def main() -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection takes a descriptor
    settings = FrontSettings.from_json(sys.stdin.readline())
    try:
        asyncio.run(serve(settings))
    except OSError as error:
        print(f"error: the front cannot listen: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
