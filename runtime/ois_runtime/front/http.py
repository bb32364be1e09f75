"""HTTP/1.1 in front of Triton: exact routes and methods, known lengths, checked requests.

A web page can send requests to every port of this machine, and a host name that resolves to
127.0.0.1 makes them its own. So a request must name this machine in Host, and none may come from a
page: browsers send Origin with every POST.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from ois_client.contract.errors import (
    InvalidInput,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
)
from ois_client.wire import TOKEN_HEADER, error_text
from ois_runtime.edge import rules
from ois_runtime.front.requests import check_region, checked_json, read_json
from ois_runtime.front.settings import FrontSettings
from ois_runtime.front.work import NO_TOKEN, NOT_READY, Work

_JSON_LENGTH = "inference-header-content-length"
_HEALTH = re.compile(rules.HTTP_HEALTH)
#: The descriptions that edges pass on, and those of any model, for who runs this server.
_DESCRIPTION = re.compile(
    r"/v2(/health/(live|ready)|/models/stats|/models/[a-z0-9_]{1,64}(/versions/[0-9]{1,9})?"
    r"(/ready|/config|/stats)?)?"
)
_INFER = re.compile(rf"/v2/models/{rules.MODELS}(/versions/1)?/infer")
_SHARE = re.compile(r"/v2/systemsharedmemory/region/([A-Za-z0-9_.-]{1,128})/(un)?register")
_SHORT = re.compile(rules.JSON_LENGTH)
_NUMBER = re.compile(r"[0-9]{1,18}")
#: Names and addresses of this machine, with any port: a proxy or a tunnel may have its own.
_HOST = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.I)
_FOREIGN = "this server takes no requests of web pages"
_CHUNK = 2**20
_POLL_S = 0.02
#: For requests on connections that were made just before connections are refused.
_LAST_REQUESTS_S = 0.25
#: Answers of Triton up to this size are read whole.
_SMALL = 2**20
#: Instead of aiohttp's name and version.
_ANONYMOUS: dict[str, str] = {hdrs.SERVER: "ois"}
_JSON: dict[str, str] = {**_ANONYMOUS, hdrs.CONTENT_TYPE: "application/json"}
_PASSED_ON = (hdrs.CONTENT_TYPE, _JSON_LENGTH)
_LIMITS = {
    "max_line_size": 1024,
    "max_field_size": 8190,
    "max_headers": 64,
    "keepalive_timeout": 3600.0,
    # A client that still sends a refused request can read why, for so long.
    "lingering_time": 1.0,
    "auto_decompress": False,
}


PassOn = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """Answer with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpFront:
    """Requests of clients, to Triton's HTTP socket."""

    def __init__(self, settings: FrontSettings, work: Work) -> None:
        self._settings, self._work = settings, work
        self._triton: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None
        self._busy: set[web.RequestHandler] = set()

    async def start(self) -> None:
        """Raises `OSError` if the port is taken."""
        self._triton = _session(str(self._settings.http_socket))
        self._runner = await _listen(self._answer, self._settings.host, self._settings.http)

    async def stop(self) -> None:
        """End all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._triton is not None:
            await self._triton.close()

    async def finish(self, within_s: float) -> None:
        """Refuse connections, then close those without a request. Return when no request is in
        progress, or after so long."""
        if self._runner is None or self._runner.server is None:
            return
        server = self._runner.server
        deadline = time.monotonic() + within_s
        _stop_listening(self._runner)
        await asyncio.sleep(min(_LAST_REQUESTS_S, within_s))
        while server.connections and time.monotonic() < deadline:
            for one in server.connections:
                if one not in self._busy:
                    one.force_close()
            await asyncio.sleep(_POLL_S)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._busy.add(request.protocol)
        try:
            answer = await _answered(self._pass_on, request)
            if self._work.stopping and not answer.prepared:
                answer.force_close()
            with contextlib.suppress(ConnectionError):  # the client is gone
                await answer.prepare(request)
                await answer.write_eof()
            return answer
        finally:
            self._busy.discard(request.protocol)

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        path, headers = request.raw_path, request.headers
        _check_origin(headers)
        self._work.check_open()
        if request.method == "GET" and _HEALTH.fullmatch(path):
            return await self._described(request)
        if not self._work.may(headers.get(TOKEN_HEADER)):
            raise Refused(403, NO_TOKEN)
        if request.method == "GET" and _DESCRIPTION.fullmatch(path):
            return await self._described(request)
        if request.method == "POST" and _INFER.fullmatch(path):
            return await self._inferred(request)
        if request.method == "POST" and self._settings.shared_memory and _SHARE.fullmatch(path):
            return await self._shared(request)
        raise Refused(403, rules.CLOSED)

    async def _described(self, request: web.BaseRequest) -> web.StreamResponse:
        if _length(request.headers, needed=False):
            raise Refused(413, f"{rules.TOO_LARGE}: expected no body")
        with self._work.request(0):
            return await self._asked("GET", request, {}, [])

    async def _inferred(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = request.headers
        _check_plain(headers)
        size = _length(headers, needed=True)
        if size > rules.MAX_REQUEST_BYTES:
            raise Refused(413, rules.TOO_LARGE)
        stated = headers.getall(_JSON_LENGTH, [str(size)])
        if len(stated) != 1 or not _SHORT.fullmatch(stated[0]) or int(stated[0]) > size:
            raise Refused(
                413, f"{rules.TOO_LARGE}: expected JSON of at most 9999 bytes, and {_JSON_LENGTH}"
            )
        with self._work.request(size):
            body = await _body(request, size)
            end = int(stated[0])
            rest = memoryview(body)[end:]
            text = checked_json(body[:end], rest, shared_memory=self._settings.shared_memory)
            more: dict[str, str] = {
                hdrs.CONTENT_TYPE: "application/octet-stream",
                _JSON_LENGTH: str(len(text)),
            }
            if self._settings.forward_token and TOKEN_HEADER in headers:
                more[TOKEN_HEADER] = headers[TOKEN_HEADER]
            return await self._asked("POST", request, more, [memoryview(text), rest])

    async def _shared(self, request: web.BaseRequest) -> web.StreamResponse:
        """Register a client's memory, or forget it."""
        headers = request.headers
        _check_plain(headers)
        size = _length(headers, needed=True)
        if size > rules.MAX_DESCRIPTION_BYTES:
            raise Refused(413, rules.TOO_LARGE)
        found = _SHARE.fullmatch(request.raw_path)
        given = read_json(await _body(request, size))
        if not isinstance(given, dict) or found is None:
            raise InvalidInput("got no JSON object")
        body = {}
        if not found[2]:
            body = {name: given.get(name) for name in ("key", "offset", "byte_size")}
            check_region(found[1], *body.values())
        more: dict[str, str] = {hdrs.CONTENT_TYPE: "application/json"}
        with self._work.request(size):
            return await self._asked("POST", request, more, [memoryview(json.dumps(body).encode())])

    async def _asked(
        self,
        method: str,
        request: web.BaseRequest,
        headers: Mapping[str, str],
        parts: list[memoryview],
    ) -> web.StreamResponse:
        """Triton's answer. A request is sent once: it may be what ended the server."""
        assert self._triton is not None
        sent = {**headers, hdrs.CONTENT_LENGTH: str(sum(map(len, parts)))} if parts else headers
        try:
            async with self._triton.request(
                method,
                f"http://localhost{request.raw_path}",
                data=_chunks(parts) if parts else None,
                headers=sent,
                allow_redirects=False,
            ) as answer:
                return await _passed_back(answer, request)
        except (aiohttp.ClientError, OSError) as error:
            raise Refused(503, NOT_READY) from error
        except TimeoutError:
            raise Refused(504, "the server did not answer in time") from None


class MetricsFront:
    """`GET /metrics`, and nothing else: Triton's, and what is in progress here."""

    def __init__(self, settings: FrontSettings, work: Work) -> None:
        self._settings, self._work = settings, work
        self._triton: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        if self._settings.metrics is not None:
            self._triton = _session(str(self._settings.metrics_socket))
            self._runner = await _listen(self._answer, self._settings.host, self._settings.metrics)

    async def stop(self) -> None:
        if self._runner is not None and self._triton is not None:
            await self._runner.cleanup()
            await self._triton.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await _answered(self._pass_on, request)

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        _check_origin(request.headers)
        if request.method != "GET" or request.raw_path != "/metrics":
            raise Refused(403, rules.CLOSED)
        if _length(request.headers, needed=False):
            raise Refused(413, f"{rules.TOO_LARGE}: expected no body")
        assert self._triton is not None
        try:
            async with self._triton.get("http://localhost/metrics") as answer:
                text = await answer.read()
                if answer.status == HTTPStatus.OK:
                    text += self._work.gauges().encode()
                return web.Response(
                    status=answer.status, headers={**_ANONYMOUS, **_kept(answer)}, body=text
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Refused(503, NOT_READY) from error


# -- connections ----------------------------------------------------------------------------------


def _session(socket: str) -> aiohttp.ClientSession:
    """A pool of connections to one of Triton's sockets."""
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(socket, limit=0, keepalive_timeout=600),
        timeout=aiohttp.ClientTimeout(total=rules.ANSWER_TIMEOUT_S),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", hdrs.ACCEPT_ENCODING, hdrs.ACCEPT),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def _listen(answer: object, host: str, port: int) -> web.ServerRunner:
    server = web.Server(answer, access_log=None, **_LIMITS)  # type: ignore[arg-type]
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=1024, reuse_address=True, reuse_port=False)
    try:
        await site.start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def _stop_listening(runner: web.ServerRunner) -> None:
    for site in runner.sites:
        server = getattr(site, "_server", None)
        if server is not None:
            server.close()


# -- requests and answers -------------------------------------------------------------------------


async def _answered(pass_on: PassOn, request: web.BaseRequest) -> web.StreamResponse:
    """What `pass_on` returns, or its error as JSON, as Triton writes errors."""
    try:
        return await pass_on(request)
    except Refused as refusal:
        return _error(refusal.status, str(refusal))
    except (ServerOverloaded, ServerUnavailable) as error:
        return _error(503, error_text(error))
    except OISError as error:
        return _error(400, error_text(error))
    except (asyncio.IncompleteReadError, web.RequestPayloadError, ConnectionError):
        return _error(400, "the request ended early")
    except TimeoutError:
        return _error(408, "the request did not arrive in time")
    except Exception as error:  # a defect: its type goes to the client, the rest to the log
        traceback.print_exc()
        return _error(500, error_text(error))


def _error(status: int, text: str) -> web.Response:
    body = json.dumps({"error": text}).encode()
    answer = web.Response(status=status, body=body, headers=_JSON, reason=HTTPStatus(status).phrase)
    answer.force_close()  # the rest of a refused request is not read
    return answer


def _check_origin(headers: Mapping[str, str]) -> None:
    host = headers.get(hdrs.HOST, "")
    if not _HOST.fullmatch(host):
        raise Refused(
            403,
            f"got a request for the host {host[:80]!r}; expected localhost or an address of this "
            "machine. A proxy in front must set Host to localhost",
        )
    if headers.get(hdrs.ORIGIN) is not None:
        raise Refused(403, _FOREIGN)
    if headers.get("sec-fetch-site", "none") != "none":
        raise Refused(403, _FOREIGN)


def _check_plain(headers: Mapping[str, str]) -> None:
    """Neither compressed nor of a type that is none of ours. Triton's own library sends no type."""
    if headers.get(hdrs.CONTENT_ENCODING, "identity") not in ("", "identity"):
        raise Refused(415, rules.COMPRESSED)
    if headers.get(hdrs.CONTENT_TYPE, rules.CONTENT_TYPES[0]) not in rules.CONTENT_TYPES:
        raise Refused(415, f"expecting one of the content types {', '.join(rules.CONTENT_TYPES)}")


def _length(headers: CIMultiDictProxy[str], *, needed: bool) -> int:
    """Bytes of the body, which must be stated."""
    stated = headers.getall(hdrs.CONTENT_LENGTH, [])
    if headers.get(hdrs.TRANSFER_ENCODING) is not None or len(stated) > 1:
        raise Refused(411, f"{rules.TOO_LARGE}, or its length is not stated")
    if not stated:
        if needed:
            raise Refused(411, f"{rules.TOO_LARGE}, or its length is not stated")
        return 0
    if not _NUMBER.fullmatch(stated[0]):
        raise Refused(400, "got a length that is no number")
    return int(stated[0])


async def _body(request: web.BaseRequest, size: int) -> bytes:
    """All of it. curl asks before it sends more than a megabyte."""
    expected = request.headers.get(hdrs.EXPECT)
    if expected is not None:
        if expected.lower() != "100-continue":
            raise Refused(417, "got an expectation other than 100-continue")
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    async with asyncio.timeout(rules.ANSWER_TIMEOUT_S):
        return await request.content.readexactly(size)


async def _chunks(parts: list[memoryview]) -> AsyncIterator[bytes]:
    for part in parts:
        for at in range(0, len(part), _CHUNK):
            yield bytes(part[at : at + _CHUNK])


def _kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The headers of Triton's answer that a client gets."""
    return {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}


async def _passed_back(
    answer: aiohttp.ClientResponse, request: web.BaseRequest
) -> web.StreamResponse:
    headers = {**_ANONYMOUS, **_kept(answer)}
    size = answer.content_length
    if size is None or size <= _SMALL:
        return web.Response(status=answer.status, headers=headers, body=await answer.read())
    stream = web.StreamResponse(status=answer.status, headers=headers)
    stream.content_length = size
    await stream.prepare(request)
    async for chunk in answer.content.iter_any():
        await stream.write(chunk)
    await stream.write_eof()
    return stream
