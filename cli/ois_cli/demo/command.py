"""`ois demo`: click on pictures in the browser, with engines here or on a server."""

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
from ois_client.contract.errors import CheckpointError, EngineError, InvalidInput
from ois_client.sessions.client import Client

if TYPE_CHECKING:
    from ois_cli.demo.gateway.attention import AttentionNetwork
    from ois_cli.demo.gateway.files import ImageFolder
    from ois_cli.demo.gateway.server import Gateway
    from ois_runtime.embedded.server import EmbeddedServer

_POLL_S = 0.5


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of images, which the page lists with their progress.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also list images in subfolders of FOLDER.")
    ] = False,
    classes: Annotated[
        str,
        typer.Option(
            help="Classes of objects, separated by commas: [b]cat,dog[/b]. More can be added on "
            "the page.",
            show_default=False,
        ),
    ] = "",
    url: Annotated[
        str | None,
        typer.Option(
            help="Use these engines and start no server: [b]grpc://host:8001[/b] or "
            "[b]http://host:8000[/b], or [b]local:[/b] for engines in this process."
        ),
    ] = None,
    engines: options.Engines = None,
    backend: Annotated[
        str | None,
        typer.Option(help="onnxruntime or openvino. Runs the engines in this process."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16. Runs the engines in this process.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Runs the engines in this process.")
    ] = None,
    token: options.Token = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint of the engines, for the pictures of attention. Needs torch. Default: "
            "the shipped network, if the engines were made from it.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Loopback address of the page.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port of the page. Default: 8360, or a free port if it is taken."
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Open no page. Click on the sample photographs, write a sheet of pictures for "
            "each to this folder, and exit."
        ),
    ] = None,
) -> None:
    """Click on pictures in the browser, until Ctrl-C.

    With FOLDER, the page lists the images in it, keeps the work on each, and saves all masks as
    one zip file.

    Without --url, this starts a Triton server as [b]ois serve[/b] does, with a random token. If
    that is not possible, the engines run in this process. The page shows the masks and what the
    network sees: the depth, the order maps, and the patches that clicks attend to. If no engines
    are named and there are none in engines/ois-photo-cpu, they are made there first.

    Example: [b]ois demo --engines engines/ois-photo-cpu[/b]

    Annotate a folder: [b]ois demo photos/ --classes cat,dog[/b]

    With a running server: [b]ois demo --url grpc://host:8001[/b]
    """
    chosen = {"backend": backend, "precision": precision, "threads": threads}
    in_process = {name: value for name, value in chosen.items() if value is not None}
    if sheet is not None:
        if url is not None or folder is not None:
            raise InvalidInput(
                f"got --sheet with {'--url' if url is not None else 'a folder'}; expected one of "
                "them, because sheets are of the sample photographs, with engines here"
            )
        _make_engines(engines)
        _write_sheets(sheet, engines, in_process)
        return
    _check_packages()
    from ois_cli.demo.gateway.server import check_host

    check_host(host, port)  # before engines are made, which takes a minute
    listed = _image_folder(folder, recursive=recursive)
    names = [name.strip() for name in classes.split(",") if name.strip()]
    source = _engine_source(url, engines, in_process, token)
    if url in (None, "local:"):
        _make_engines(engines)
    stack = ExitStack()
    with until_signalled(stack.close):
        source = source or _own_server(engines, stack)
        content = {
            "folder": listed,
            "classes": names,
            "attention": _attention(checkpoint, source, engines),
        }
        gateway = _start_gateway(source, host, port, content, stack)
        _announce(gateway.url, source, browser=browser)
        while not gateway.wait(_POLL_S):
            if source.server is not None:
                source.server.wait(0)  # raises if the server cannot be restarted
    say("stopped")


@dataclass(frozen=True, slots=True)
class EngineSource:
    """Where the engines run. name: for people. options: of the transport. server: our own."""

    url: str
    name: str
    options: dict[str, Any]
    server: EmbeddedServer | None = None


def _make_engines(engines: Path | None) -> None:
    """Export the shipped network if no engines are named and the default folder is missing.

    So `ois demo` is all that somebody needs who has just installed the package.
    """
    from ois_runtime.engines.local import DEFAULT_ENGINES, ENGINES_VARIABLE

    if engines is not None or os.environ.get(ENGINES_VARIABLE) or DEFAULT_ENGINES.exists():
        return
    from ois_runtime.shipped import shipped_checkpoint

    checkpoint = shipped_checkpoint()
    say(f"no engines in {DEFAULT_ENGINES} yet; making them, which takes a minute, once")
    from ois_export.export import export_engines
    from ois_export.targets import Target

    export_engines(checkpoint, DEFAULT_ENGINES, target=Target.CPU, progress=say)


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
            f"the page needs {' and '.join(missing)}; run pip install 'ois-deploy[cpu,demo]', or "
            "use `ois demo --sheet FOLDER`, which has no page"
        )


def _engine_source(
    url: str | None, engines: Path | None, in_process: dict[str, Any], token: str | None
) -> EngineSource | None:
    """Return the engines that the options name; None: start a server.

    Raises `InvalidInput` if options contradict each other.
    """
    if url is None and not in_process:
        return None
    if url is None or url == "local:":
        return EngineSource(f"local:{engines or ''}", "in this process", in_process)
    wrong = [f"--{name}" for name in in_process] if not url.startswith("local:") else []
    if engines is not None:
        wrong.append("--engines")
    if wrong:
        raise InvalidInput(
            f"got {' and '.join(wrong)} with --url {url}; expected --url alone, which names "
            "the engines and where they run"
        )
    if url.startswith("local:"):
        return EngineSource(url, "in this process", in_process)
    return EngineSource(url, f"server at {url}", {} if token is None else {"token": token})


def _own_server(engines: Path | None, stack: ExitStack) -> EngineSource:
    """Start a server; if it cannot run here, say why and use engines in this process.

    The server has a random token. Without it, any web page could send requests to its HTTP port.
    """
    in_process = EngineSource(f"local:{engines or ''}", "in this process", {})
    if tritonserver_binary() is None:
        say(
            "note: no Triton server on this machine (pip install 'ois-deploy[serve]'); the "
            "engines run in this process"
        )
        return in_process
    from ois_runtime.embedded.options import ServerOptions
    from ois_runtime.embedded.own_token import new_token
    from ois_runtime.embedded.server import EmbeddedServer
    from ois_runtime.engines.local import default_engine_folder

    repository = stack.enter_context(model_repository(engines or default_engine_folder()))
    token = new_token()
    try:
        server = EmbeddedServer(repository, ServerOptions(token=token))
    except EngineError as error:
        say(f"note: {error}. The engines run in this process instead")
        return in_process
    stack.callback(server.stop)  # first, because a signal may arrive during the start
    with progress("starting the server"):
        server.start()
    return EngineSource(server.grpc_url, "Triton on this machine", {"token": token}, server)


def _image_folder(folder: Path | None, *, recursive: bool) -> ImageFolder | None:
    """Raises `InvalidInput` if there is no image in the folder, or it is not a folder."""
    if folder is None:
        return None
    from ois_cli.batch.places import find_images
    from ois_cli.demo.gateway.files import ImageFolder

    if not folder.is_dir():
        raise InvalidInput(
            f"got {folder}, which is not a folder; expected one with images. One image is opened "
            "on the page"
        )
    return ImageFolder(folder, list(map(Path, find_images([str(folder)], recursive=recursive))))


def _attention(
    checkpoint: Path | None, source: EngineSource, engines: Path | None
) -> AttentionNetwork | None:
    """The network whose attention the page can show.

    None if there is none here, unless the user named a checkpoint. Raises `InvalidInput` if that
    is not the engines' checkpoint, and `EngineError` without torch.
    """
    from ois_cli.demo.gateway.attention import AttentionNetwork
    from ois_runtime.engines.manifest import sha256_of
    from ois_runtime.shipped import shipped_checkpoint

    if importlib.util.find_spec("torch") is None:
        if checkpoint is None:
            return None
        raise EngineError(
            "got --checkpoint, which needs torch; run pip install 'ois-deploy[export]', or leave "
            "the option out"
        )
    made_from = _checkpoint_of(source, engines)
    if checkpoint is None:
        try:
            checkpoint = shipped_checkpoint()
        except CheckpointError:
            return None
        return AttentionNetwork(checkpoint) if sha256_of(checkpoint) == made_from else None
    if made_from is not None and sha256_of(checkpoint) != made_from:
        raise InvalidInput(
            f"got the checkpoint {checkpoint}, from which these engines were not made; expected "
            "the one with which `ois export` made them"
        )
    return AttentionNetwork(checkpoint)


def _checkpoint_of(source: EngineSource, engines: Path | None) -> str | None:
    """The sha256 of the checkpoint that the engines were made from; None if that is not known."""
    from ois_runtime.engines.local import default_engine_folder
    from ois_runtime.engines.manifest import Manifest

    if source.url.startswith("local:"):
        named = source.url.removeprefix("local:").partition("?")[0]
    elif source.server is not None:
        named = str(engines or "")
    else:
        return None
    folder = Path(named) if named else default_engine_folder()
    if not (folder / "manifest.json").is_file():
        return None
    return Manifest.load(folder).checkpoint_sha256


def _start_gateway(
    source: EngineSource,
    host: str,
    port: int | None,
    content: Mapping[str, Any],
    stack: ExitStack,
) -> Gateway:
    from ois_cli.demo.gateway.server import Gateway

    gateway = Gateway(
        source.url,
        options=source.options,
        where=source.name,
        host=host,
        port=port,
        **content,
    )
    stack.callback(gateway.stop)
    with progress("connecting the page to the engines"):
        gateway.start()
    return gateway


def _announce(page: str, source: EngineSource, *, browser: bool) -> None:
    """Print the addresses to stdout and flush, because programs wait for these lines."""
    print(f"page:    {page}", flush=True)
    print(f"engines: {source.name}, {source.url}", flush=True)
    print("ready; Ctrl-C stops", flush=True)
    if browser and _has_display():
        webbrowser.open(page)


def _has_display() -> bool:
    """Whether there is a display; without one, Python opens a text browser in this terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
