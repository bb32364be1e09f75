"""Starts Debian's Firefox for Playwright, which drives it by WebDriver BiDi.

Playwright sends one command that Firefox ESR does not know yet, and gives up: the emulation of
media features, which no test here needs in Firefox. So this module stands between the two as a
WebSocket server on the loopback interface, answers that command itself, and passes on the rest.

Playwright runs it in place of Firefox, with Firefox's arguments, and reads the address of the
WebSocket from its standard error.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import aiohttp
from aiohttp import web

#: Commands that Firefox ESR lacks, and that do nothing for these tests.
_ANSWERED_HERE = frozenset({"emulation.setMediaFeaturesOverride"})
_LISTENING = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")


def write_launcher(folder: Path, firefox: str) -> Path:
    """Write the program that Playwright runs. firefox: path of the browser."""
    launcher = folder / "firefox-for-playwright"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{firefox}" "$@"\n')
    launcher.chmod(0o755)
    return launcher


async def serve(command: list[str]) -> int:
    """Run Firefox, pass its messages on until it ends, and return its exit status."""
    firefox = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, firefox.terminate)
    assert firefox.stderr is not None
    async for line in firefox.stderr:
        found = _LISTENING.search(line)
        if found:
            address = await _listen(found[1].decode())
            line = f"WebDriver BiDi listening on {address}\n".encode()
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
    return await firefox.wait()


async def _listen(firefox: str) -> str:
    """Listen for Playwright. firefox: the address of Firefox's WebSocket. Returns the own one."""

    async def connect(request: web.Request) -> web.WebSocketResponse:
        playwright = web.WebSocketResponse(max_msg_size=0)
        await playwright.prepare(request)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(firefox + request.path, max_msg_size=0) as browser,
        ):
            answers = asyncio.ensure_future(_pass_on(browser, playwright))
            async for message in playwright:
                command = json.loads(message.data)
                if command["method"] in _ANSWERED_HERE:
                    await playwright.send_json(
                        {"type": "success", "id": command["id"], "result": {}}
                    )
                else:
                    await browser.send_str(message.data)
            answers.cancel()
        return playwright

    app = web.Application()
    app.router.add_get("/{path:.*}", connect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return f"ws://{host}:{port}"


async def _pass_on(
    browser: aiohttp.ClientWebSocketResponse, playwright: web.WebSocketResponse
) -> None:
    async for message in browser:
        await playwright.send_str(message.data)
    await playwright.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(sys.argv[1:])))
