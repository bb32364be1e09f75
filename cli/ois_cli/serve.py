"""`ois serve`: the engines behind a real Triton server on this machine."""

from __future__ import annotations

import math
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ois_cli import options
from ois_cli.output import progress, say

if TYPE_CHECKING:
    from ois_runtime.embedded.server import EmbeddedServer

#: What of Triton's log a person wants to see while it serves; --verbose shows all of it.
_INTERESTING = ("ois ", "ois:")

_Port = typer.Option(min=1, max=65535)


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    engines: options.Engines = None,
    host: Annotated[str, typer.Option(help="A loopback address; others need a proxy.")] = (
        "127.0.0.1"
    ),
    grpc_port: Annotated[int, _Port] = 8001,
    http_port: Annotated[int, _Port] = 8000,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Default: 8002, or none with a token, which it cannot ask for."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="OIS_TOKEN", help="Clients must send it. $OIS_TOKEN keeps it hidden."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="OIS_TOKEN_FILE", help="File with the token; counts more than --token."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Run the network with PyTorch on cuda, cuda:1 or cpu, in one process, instead "
            "of the exported engines. cuda has not been run on a GPU yet."
        ),
    ] = "",
    precision: Annotated[
        str, typer.Option(help="With --device: fp32, fp16 or bf16. Default: fp16 on a GPU.")
    ] = "",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="With --device: the network's file. Default: the one that the engines were made "
            "from, in $OIS_CHECKPOINT, beside the engines or in models/."
        ),
    ] = None,
    cache_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="OIS_CACHE_BYTES",
            help="Memory of the feature store: of the --device, or in /dev/shm. Default: up to "
            "2 GiB.",
        ),
    ] = None,
    ttl: Annotated[
        float,
        typer.Option(
            envvar="OIS_CACHE_TTL_S", help="Seconds after which an idle image is forgotten."
        ),
    ] = math.inf,
    allow_client_shm: Annotated[
        bool,
        typer.Option(
            "--allow-client-shm",
            help="Take pictures through this machine's shared memory, from clients that use "
            "shared_memory=True.",
        ),
    ] = False,
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Print what would run, and do not run it.")
    ] = False,
    verbose: Annotated[bool, typer.Option(help="Show all of Triton's log.")] = False,
) -> None:
    """Serve clicks from this machine, until Ctrl-C or SIGTERM.

    It is ready when a click came back, starts again what dies, lets clicks in flight finish
    when it stops, and leaves nothing behind. For other machines, put a proxy in front or use
    NVIDIA's container: this server listens on loopback only.
    """
    from ois_runtime.embedded.options import ServerOptions, read_token_file
    from ois_runtime.embedded.server import EmbeddedServer
    from ois_runtime.engines.local import default_engine_folder

    if token_file is not None:
        token = read_token_file(token_file)
    if metrics_port is None and token is None:
        metrics_port = 8002
    settings = ServerOptions(
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        token=token,
        device=device,
        precision=precision,
        checkpoint=checkpoint,
        cache_bytes=cache_bytes,
        ttl_s=ttl,
        client_shm=allow_client_shm,
    )

    def log(line: str) -> None:
        if verbose or any(word in line for word in _INTERESTING):
            say(line)

    with model_repository(engines or default_engine_folder()) as repository:
        server = EmbeddedServer(repository, settings, log=log)
        if not device:
            _mention_an_idle_gpu(server.repository)
        if print_command:
            print(server.printable_command())
            return
        with until_signalled(server.stop):
            with progress("starting the server"):
                server.start()
            _print_addresses(server)
            server.wait()
    say("stopped")


def _mention_an_idle_gpu(repository: Path) -> None:
    """One line where there is a GPU and these engines run beside it, on the CPU."""
    from ois_client.contract.errors import EngineError
    from ois_runtime import gpu_driver as driver
    from ois_runtime.embedded.staging import manifest_of

    try:
        if manifest_of(repository).encoder.file.endswith(".plan"):
            return  # TensorRT's engines run on it
        gpu = driver.probe()
    except EngineError:
        return  # no GPU; what is wrong with a manifest is told by the server's start
    say(f"{gpu.name} is not used: these engines run on the CPU. --device cuda uses it")


@contextmanager
def model_repository(engines: Path) -> Iterator[Path]:
    """The engines' model repository; where it is missing or stale, one for the time being."""
    from ois_export.repository import REPOSITORY, is_current, write_repository
    from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest

    if not (engines / MANIFEST_FILE).is_file() or is_current(engines / REPOSITORY, engines):
        yield engines
        return
    manifest = Manifest.load(engines)
    with tempfile.TemporaryDirectory(prefix="ois-repository-") as folder:
        yield write_repository(engines, manifest, Path(folder))


class _Signalled(BaseException):
    """SIGTERM or SIGINT came. Raised, because no lock may be taken in a handler."""


@contextmanager
def until_signalled(stop: Callable[[], object]) -> Iterator[None]:
    """A signal ends the block; then, and in any case, `stop` is called and not cut off."""

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # stopping is under way; it must not be cut off
        raise _Signalled

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, interrupt)
        yield
    except _Signalled:
        pass
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_addresses(server: EmbeddedServer) -> None:
    """On stdout and at once, for a person or a program that waits for it."""
    rows = {
        "gRPC": server.grpc_url,
        "HTTP": server.http_url,
        "metrics": server.metrics_url or "none (with a token, name --metrics-port)",
        "models": ", ".join(server.models),
    }
    for name, value in rows.items():
        print(f"{name + ':':9}{value}", flush=True)
    print("ready; Ctrl-C stops", flush=True)
