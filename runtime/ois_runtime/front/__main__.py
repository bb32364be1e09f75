"""`python -m ois_runtime.front`: takes settings as one line on stdin, and runs until SIGTERM.

After SIGTERM it answers the requests in progress, and ends. New requests are told for half a second
that the server is stopping; then connections are refused, so that a proxy takes another server at
once. It prints nothing but errors. `ois_runtime/embedded/guard.py` starts and stops it.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import sys

from ois_runtime.front.grpc import GrpcFront
from ois_runtime.front.http import HttpFront, MetricsFront
from ois_runtime.front.settings import FrontSettings
from ois_runtime.front.work import Work

#: How long new requests get an answer after SIGTERM. The last attempt of the client library comes
#: later, so behind a proxy it reaches another server.
_NOTICE_S = 0.5


async def serve(settings: FrontSettings, stop: asyncio.Event) -> None:
    """Until `stop`. Raises `OSError` if a port is taken."""
    work = Work(settings.token)
    http, metrics = HttpFront(settings, work), MetricsFront(settings, work)
    grpc = GrpcFront(settings, work)
    try:
        for one in (http, metrics, grpc):
            await one.start()
        settings.listening.touch()
        await stop.wait()
        work.stopping = True
        notice_s = min(_NOTICE_S, settings.grace_s) if work.lately else 0.0
        await asyncio.sleep(notice_s)
        left_s = settings.grace_s - notice_s
        await asyncio.gather(http.finish(left_s), grpc.finish(left_s))
    finally:
        for one in (grpc, http, metrics):
            await one.stop()


async def until_signalled(settings: FrontSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)


def main() -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection takes a descriptor
    settings = FrontSettings.from_json(sys.stdin.readline())
    try:
        asyncio.run(until_signalled(settings))
    except OSError as error:
        print(f"error: the front cannot listen: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
