"""`ois serve`: serves the engines with a Triton server on this machine."""

from __future__ import annotations

import math
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ois_cli import options
from ois_cli.output import progress, say
from ois_client.contract.errors import EngineError, InvalidInput

if TYPE_CHECKING:
    from ois_runtime.embedded.server import EmbeddedServer

#: Lines of Triton's log that are shown; --verbose shows all.
_SHOWN = ("ois ", "ois:")


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    engines: options.Engines = None,
    host: Annotated[str, typer.Option(help="A loopback address. Other machines need a proxy.")] = (
        "127.0.0.1"
    ),
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of gRPC.")] = 8001,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of HTTP.")] = 8000,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port of metrics. Default: 8002, or none with --token, because metrics need no "
            "token.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="OIS_TOKEN",
            help="Token that clients must send. $OIS_TOKEN keeps it out of the process list. "
            "Default: a random one, which programs of this user on this machine find by "
            "themselves.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="OIS_TOKEN_FILE", help="File with the token; takes precedence over --token."
        ),
    ] = None,
    no_token: Annotated[
        bool,
        typer.Option(
            "--no-token", help="Let every user and program of this machine send requests."
        ),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            help="Run the network with PyTorch on cuda, cuda:1 or cpu, in one process, instead "
            "of the exported engines. cuda has not been tested on a GPU yet."
        ),
    ] = "",
    precision: Annotated[
        str, typer.Option(help="With --device: fp32, fp16 or bf16. Default: fp16 on a GPU.")
    ] = "",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="With --device: the network's weights. Default: the checkpoint that the engines "
            "were exported from, in $OIS_CHECKPOINT, next to the engines, in models/ or shipped."
        ),
    ] = None,
    cache_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="OIS_CACHE_BYTES",
            help="Size of the feature store, in the memory of --device or in /dev/shm. Default: "
            "up to 2 GiB.",
        ),
    ] = None,
    ttl: Annotated[
        float,
        typer.Option(
            envvar="OIS_CACHE_TTL_S",
            help="Seconds without a click after which an image's features are dropped.",
        ),
    ] = math.inf,
    cache_salt: Annotated[
        str,
        typer.Option(
            envvar="OIS_CACHE_SALT",
            help="[b]token[/b] keeps the features of every token apart, so that nobody can tell "
            "whether someone else opened an image. For a proxy that checks several tokens. "
            "Default: all share.",
        ),
    ] = "",
    longest: Annotated[
        int | None,
        typer.Option(
            envvar="OIS_LONGEST",
            min=1,
            help="Longest side of the network's images in pixels: smaller is faster and coarser. "
            "Default: as exported.",
            show_default=False,
        ),
    ] = None,
    allow_client_shm: Annotated[
        bool,
        typer.Option(
            "--allow-client-shm",
            help="Accept images through this machine's shared memory, from clients with "
            "shared_memory=True. Whoever may click can then read what Python programs of this user "
            "have in shared memory.",
        ),
    ] = False,
    print_command: Annotated[
        bool,
        typer.Option(
            "--print-command",
            help="Print a command that runs the same Triton by hand, and do not run it. It has no "
            "front that checks requests (docs/security.md).",
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option(help="Show all of Triton's log.")] = False,
) -> None:
    """Serve clicks on this machine until Ctrl-C or SIGTERM.

    The server is ready when it has answered a click. It is restarted if it crashes. When it
    stops, it finishes the clicks in progress and removes its temporary files. It listens on
    loopback only, and refuses requests of web pages and of other users; for other machines, use a
    proxy or NVIDIA's container.

    Example: [b]ois serve --engines engines/ois-photo-cpu --grpc-port 8001[/b]
    """
    from ois_runtime.embedded.options import ServerOptions, read_token_file
    from ois_runtime.embedded.own_token import new_token, told_to_own_user
    from ois_runtime.embedded.server import EmbeddedServer
    from ois_runtime.engines.local import default_engine_folder

    if no_token and (token is not None or token_file is not None):
        raise InvalidInput(
            "got --no-token with a token; expected one of them. $OIS_TOKEN and $OIS_TOKEN_FILE are "
            "tokens, too"
        )
    if token_file is not None:
        token = read_token_file(token_file)
    if metrics_port is None and token is None:
        metrics_port = 8002
    random = new_token() if token is None and not (no_token or print_command) else None
    settings = ServerOptions(
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        token=token or random,
        device=device,
        precision=precision,
        checkpoint=checkpoint,
        cache_bytes=cache_bytes,
        ttl_s=ttl,
        cache_salt=cache_salt,
        longest=longest,
        client_shm=allow_client_shm,
    )

    def log(line: str) -> None:
        if verbose or any(word in line for word in _SHOWN):
            say(line)

    with model_repository(engines or default_engine_folder()) as repository:
        server = EmbeddedServer(repository, settings, log=log)
        if not device:
            _mention_an_idle_gpu(server.repository)
        if print_command:
            print(server.printable_command())
            return
        # The ports were free, so that the files of another one are not replaced. They are
        # removed last: clients must learn that the server stops, not that it refuses them.
        told = told_to_own_user(random, (grpc_port, http_port)) if random else nullcontext()
        with told as files, until_signalled(server.stop):
            with progress("starting the server"):
                server.start()
            _print_addresses(server, files[0] if files else None)
            server.wait()
    say("stopped")


def _mention_an_idle_gpu(repository: Path) -> None:
    """Print a note if this machine has a GPU but the engines run on the CPU."""
    from ois_runtime import gpu_driver as driver
    from ois_runtime.embedded.staging import manifest_of

    try:
        if manifest_of(repository).encoder.file.endswith(".plan"):
            return  # TensorRT engines use the GPU
        gpu = driver.probe()
    except EngineError:
        return  # no GPU; the server reports a damaged manifest when it starts
    say(f"{gpu.name} is not used: these engines run on the CPU. --device cuda uses it")


@contextmanager
def model_repository(engines: Path) -> Iterator[Path]:
    """Yield a folder for the server: the engines, or a temporary repository if theirs is stale."""
    from ois_export.repository import REPOSITORY, is_current, write_repository
    from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest

    if not (engines / MANIFEST_FILE).is_file() or is_current(engines / REPOSITORY, engines):
        yield engines
        return
    manifest = Manifest.load(engines)
    with tempfile.TemporaryDirectory(prefix="ois-repository-") as folder:
        yield write_repository(engines, manifest, Path(folder))


class _Signalled(BaseException):
    """SIGTERM or SIGINT arrived. Raised because a signal handler must not take locks."""


@contextmanager
def until_signalled(stop: Callable[[], object]) -> Iterator[None]:
    """Run the block until SIGTERM or SIGINT, then call `stop`.

    `stop` is also called if the block ends by itself or raises. Signals cannot interrupt it.
    """

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # `stop` must not be interrupted
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


def _print_addresses(server: EmbeddedServer, token_file: Path | None) -> None:
    """Print the addresses to stdout and flush, because programs wait for these lines.

    token_file: where a random token is.
    """
    if token_file is not None:
        token = f"in {token_file}; clients of this user send it by themselves"
    else:
        token = (
            "none: every user of this machine can click"
            if server.options.token is None
            else "as given"
        )
    rows = {
        "gRPC": server.grpc_url,
        "HTTP": server.http_url,
        "metrics": server.metrics_url or "none (with a token, set --metrics-port)",
        "token": token,
        "models": ", ".join(server.models),
    }
    for name, value in rows.items():
        print(f"{name + ':':9}{value}", flush=True)
    print("ready; Ctrl-C stops", flush=True)
