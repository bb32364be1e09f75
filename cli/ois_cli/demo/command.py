"""`ois demo`: click on pictures in the browser, with the engines of this machine or a server's."""

from __future__ import annotations

import importlib.util
import os
import sys
import webbrowser
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ois_cli import options
from ois_cli.output import progress, say, warn
from ois_cli.packages import tritonserver_binary
from ois_cli.segment import UNTRAINED
from ois_cli.serve import model_repository, until_signalled
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.sessions.client import Client

if TYPE_CHECKING:
    from ois_cli.demo.gateway.server import Gateway
    from ois_runtime.embedded.server import EmbeddedServer

_POLL_S = 0.5


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    url: Annotated[
        str | None,
        typer.Option(
            help="Engines to use instead of a server of its own: [b]grpc://host:8001[/b], "
            "[b]http://host:8000[/b], or [b]local:[/b] for this process."
        ),
    ] = None,
    engines: options.Engines = None,
    backend: Annotated[
        str | None,
        typer.Option(help="onnxruntime or openvino; runs the engines in this process."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16; runs the engines in this process.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; runs the engines in this process.")
    ] = None,
    token: options.Token = None,
    host: Annotated[
        str, typer.Option(help="A loopback address to listen on; others are refused.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Default: 8360, or a free one where it is taken."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="No page: click on the sample photographs, write a sheet of pictures for each "
            "into this folder, and end."
        ),
    ] = None,
) -> None:
    """Click on pictures in the browser, until Ctrl-C.

    Without --url this starts a Triton server of its own, as [b]ois serve[/b] does; where that
    cannot run, the engines run in this process. The page shows the masks, and what the network
    sees: the depth, the order maps of each click, and the patches that a click may look at.
    """
    chosen = {"backend": backend, "precision": precision, "threads": threads}
    in_process = {name: value for name, value in chosen.items() if value is not None}
    if sheet is not None:
        if url is not None:
            raise InvalidInput("got --sheet with --url: sheets are made in this process")
        _write_sheets(sheet, engines, in_process)
        return
    _check_packages()
    place = _place(url, engines, in_process, token)
    stack = ExitStack()
    with until_signalled(stack.close):
        place = place or _own_server(engines, stack)
        page = _start_gateway(place, host, port, stack)
        _announce(page.url, place, browser=browser)
        while not page.wait(_POLL_S):
            if place.server is not None:
                place.server.wait(0)  # raises when it died for good
    say("stopped")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the engines are. options: of the transport. server: ours, which then may die."""

    url: str
    name: str
    options: dict[str, Any]
    server: EmbeddedServer | None = None


def _write_sheets(folder: Path, engines: Path | None, in_process: Mapping[str, Any]) -> None:
    from ois_cli.demo.samples import write_sheets

    with Client(f"local:{engines or ''}", **in_process) as client:
        if not client.info.trained:
            warn(UNTRAINED)
        write_sheets(client, folder)


def _check_packages() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(
            f"the page needs {' and '.join(missing)}; run pip install 'ois-deploy[demo]'. "
            "`ois demo --sheet FOLDER` works without"
        )


def _place(
    url: str | None, engines: Path | None, in_process: dict[str, Any], token: str | None
) -> Place | None:
    """None: a server of our own. Raises `InvalidInput` for options that contradict each other."""
    if url is None and not in_process:
        return None
    if url is None or url == "local:":
        return Place(f"local:{engines or ''}", "in this process", in_process)
    wrong = [f"--{name}" for name in in_process] if not url.startswith("local:") else []
    if engines is not None:
        wrong.append("--engines")
    if wrong:
        raise InvalidInput(
            f"got {' and '.join(wrong)} with --url {url}: the engines are already named there. "
            "Leave one of them out"
        )
    if url.startswith("local:"):
        return Place(url, "in this process", in_process)
    return Place(url, f"server at {url}", {} if token is None else {"token": token})


def _own_server(engines: Path | None, stack: ExitStack) -> Place:
    """The embedded server; where it cannot run, this process, and a line that says why."""
    in_process = Place(f"local:{engines or ''}", "in this process", {})
    if tritonserver_binary() is None:
        say(
            "note: no Triton server on this machine (pip install 'ois-deploy[serve]'); the "
            "engines run in this process"
        )
        return in_process
    from ois_runtime.embedded.server import EmbeddedServer
    from ois_runtime.engines.local import default_engine_folder

    repository = stack.enter_context(model_repository(engines or default_engine_folder()))
    try:
        server = EmbeddedServer(repository)
    except EngineError as error:
        say(f"note: {error}. The engines run in this process instead")
        return in_process
    stack.callback(server.stop)  # before it starts: a signal may come while it does
    with progress("starting the server"):
        server.start()
    return Place(server.grpc_url, "Triton on this machine", {}, server)


def _start_gateway(place: Place, host: str, port: int | None, stack: ExitStack) -> Gateway:
    from ois_cli.demo.gateway.server import Gateway

    gateway = Gateway(place.url, options=place.options, where=place.name, host=host, port=port)
    stack.callback(gateway.stop)
    with progress("connecting the page to the engines"):
        gateway.start()
    return gateway


def _announce(page: str, place: Place, *, browser: bool) -> None:
    """On stdout and at once, for a person or a program that waits for it."""
    print(f"page:    {page}", flush=True)
    print(f"engines: {place.name}, {place.url}", flush=True)
    print("ready; Ctrl-C stops", flush=True)
    if browser and _has_display():
        webbrowser.open(page)


def _has_display() -> bool:
    """Without one, Python would open a browser for terminals in ours."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
