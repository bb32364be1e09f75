"""`ois cluster`: one address for clicks on several servers, with Envoy in front of them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ois_cli.output import progress, say, warn
from ois_cli.serve import until_signalled

if TYPE_CHECKING:
    from ois_runtime.edge.process import Edge
    from ois_runtime.edge.settings import EdgeSettings, Replica

_WATCH_S = 1.0
_ASK_S = 2.0


def register(app: typer.Typer) -> None:
    app.command("cluster", no_args_is_help=True)(cluster)


def cluster(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADDRESS",
            help="Replicas: HOST, or HOST:HTTP_PORT:GRPC_PORT if the ports are not 8000 and 8001.",
        ),
    ] = None,
    replicas_file: Annotated[
        Path | None,
        typer.Option(
            "--replicas",
            help="File with a replica per line, instead of ADDRESS. It is read again when it "
            "changes: remove a line to drain a replica, add one to use it.",
        ),
    ] = None,
    http: Annotated[str, typer.Option(help="Where clients connect with HTTP.")] = "127.0.0.1:8000",
    grpc: Annotated[str, typer.Option(help="Where clients connect with gRPC.")] = "127.0.0.1:8001",
    stats: Annotated[
        str, typer.Option(help="Where /ready and /stats/prometheus are. Default: nowhere.")
    ] = "",
    admin: Annotated[
        str,
        typer.Option(
            help="With --print: loopback address of Envoy's administration. A running one uses a "
            "private socket."
        ),
    ] = "127.0.0.1:9901",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="OIS_TOKEN",
            help="Token that clients must send. It is also sent with health checks, for replicas "
            "that require it.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="OIS_TOKEN_FILE",
            help="File with a token per line; clients need one of them. Takes precedence. The "
            "first is sent with health checks.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file; clients then connect with grpcs:// and https://.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with the certificate's key.")] = None,
    balance: Annotated[
        int,
        typer.Option(
            min=100,
            help="How much more than the average a replica may be loaded, in percent, before "
            "another one also encodes its images. 100: images move often; 200: rarely.",
        ),
    ] = 200,
    health_interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between the health checks of a replica.")
    ] = 5.0,
    health_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds within which it must be answered.")
    ] = 10.0,
    unhealthy_after: Annotated[
        int, typer.Option(min=1, help="Failed health checks in a row until it is left out.")
    ] = 2,
    probe: Annotated[
        str,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Picture of the health checks, in pixels. Default: what the replicas name, or "
            "64x64 if none answers now.",
        ),
    ] = "",
    access_log: Annotated[
        str, typer.Option(help="File for a line per request, or /dev/stdout. Default: none.")
    ] = "",
    print_config: Annotated[
        bool,
        typer.Option(
            "--print", help="Print Envoy's configuration, with any token in it, and do not run it."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option(help="Show Envoy's log.")] = False,
) -> None:
    """Give several servers one address, until Ctrl-C or SIGTERM.

    Envoy sends all clicks on an image to one replica, which then has its features. If a replica
    dies, freezes or is removed, the others take over its images: the client sends each image once
    more, and no answered click is lost. Whether a replica works is decided by a real click.

    Envoy lets through clicks and descriptions only, because some other requests crash Triton. It
    never repeats a request that a replica has seen. Use it also in front of a single server.

    Envoy is in the extra [b]cluster[/b]. Replicas are plain: ois serve, or NVIDIA's container. The
    network between Envoy and the replicas must be closed to everyone else.

    Examples:

    [b]ois cluster 10.0.0.5 10.0.0.6 --http 0.0.0.0:8000 --grpc 0.0.0.0:8001 --token-file token[/b]

    [b]ois cluster 127.0.0.1:8010:8011 127.0.0.1:8020:8021[/b]

    [b]ois cluster 10.0.0.5 10.0.0.6 --print > envoy.json; envoy --config-path envoy.json[/b]
    """
    from ois_client.contract.errors import InvalidInput
    from ois_runtime.edge.settings import (
        EdgeSettings,
        Listen,
        parse_replicas,
        read_replicas,
        read_tokens,
    )

    if bool(addresses) == (replicas_file is not None):
        raise InvalidInput(
            "got addresses and --replicas"
            if addresses
            else "got no replica; expected the address of one or more servers, or --replicas FILE"
        )
    replicas = read_replicas(replicas_file) if replicas_file else parse_replicas(addresses or [])
    tokens = read_tokens(token_file) if token_file else (token,) if token else ()
    if not print_config:
        for file in (certificate, key):
            if file is not None and not file.is_file():
                raise InvalidInput(f"the file {file} does not exist; expected a PEM file")
    settings = EdgeSettings(
        http=Listen.parse(http),
        grpc=Listen.parse(grpc),
        stats=Listen.parse(stats) if stats else None,
        admin=Listen.parse(admin),
        tokens=tokens,
        certificate=certificate,
        key=key,
        balance_percent=balance,
        health_interval_s=health_interval,
        health_timeout_s=health_timeout,
        unhealthy_after=unhealthy_after,
        probe=_size(probe) if probe else (64, 64),
        access_log=access_log,
    )
    if not probe:
        settings = replace(settings, probe=_ask_for_probe(replicas, settings))
    if print_config:
        _print_config(replicas, settings)
    else:
        _run(replicas, settings, replicas_file, verbose=verbose)


def _print_config(replicas: Sequence[Replica], settings: EdgeSettings) -> None:
    from ois_runtime.edge.configuration import whole

    if settings.tokens:
        warn("the configuration contains the token; keep it as secret as the token itself")
    print(json.dumps(whole(replicas, settings), indent=2))


def _run(
    replicas: Sequence[Replica], settings: EdgeSettings, file: Path | None, *, verbose: bool
) -> None:
    from ois_runtime.edge.process import Edge

    edge = Edge(replicas, settings, log=say if verbose else lambda _: None)
    with until_signalled(edge.stop):
        with progress("starting Envoy"):
            edge.start()
        secure = "s" if settings.certificate else ""
        print(f"gRPC:    grpc{secure}://{settings.grpc}", flush=True)
        print(f"HTTP:    http{secure}://{settings.http}", flush=True)
        print("ready; Ctrl-C stops", flush=True)
        _watch(edge, file)
    say("stopped")


def _watch(edge: Edge, file: Path | None) -> None:
    """Follow the file of replicas and report changes of their health.

    Raises `EngineError` when Envoy has ended.
    """
    from ois_client.contract.errors import EngineError

    unhealthy: frozenset[str] = frozenset()
    seen = _stamp(file)
    while edge.alive():
        if file is not None and (stamp := _stamp(file)) != seen:
            seen = stamp
            _reload(edge, file)
        with contextlib.suppress(OSError, ValueError, KeyError):
            now = edge.unhealthy()
            for name in sorted(now - unhealthy):
                say(f"{name} does not answer clicks; its images move to other replicas")
            for name in sorted(unhealthy - now):
                say(f"{name} answers clicks again, or was removed")
            unhealthy = now
        time.sleep(_WATCH_S)
    raise EngineError(f"Envoy ended: {edge.problem()}; run `ois cluster` again")


def _reload(edge: Edge, file: Path) -> None:
    from ois_client.contract.errors import OISError
    from ois_runtime.edge.settings import read_replicas

    try:
        replicas = read_replicas(file)
        if replicas != edge.replicas:
            edge.set_replicas(replicas)
            say(f"replicas: {', '.join(one.name for one in replicas)}")
    except OISError as error:
        warn(f"{error}. The replicas stay as they were")


def _stamp(file: Path | None) -> tuple[int, int] | None:
    """Changes when the file does; None while there is no file."""
    if file is None:
        return None
    with contextlib.suppress(OSError):
        status = file.stat()
        return status.st_mtime_ns, status.st_ino
    return None


def _ask_for_probe(replicas: Sequence[Replica], settings: EdgeSettings) -> tuple[int, int]:
    """The picture that the engines of the replicas name, else the usual one."""
    from concurrent.futures import ThreadPoolExecutor

    from ois_client.contract.errors import OISError
    from ois_runtime.embedded.probe import picture_size, probe_info

    token = settings.tokens[0] if settings.tokens else None

    def ask(replica: Replica) -> tuple[int, int] | OISError:
        try:
            info = probe_info(replica.host, replica.http_port, token=token, timeout_s=_ASK_S)
            return picture_size(info)
        except OISError as error:
            return error

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, replicas))
    for replica, answer in zip(replicas, answers, strict=True):
        if isinstance(answer, OISError):
            warn(f"{replica.name} does not answer yet: {answer}")
    sizes = [answer for answer in answers if not isinstance(answer, OISError)]
    return sizes[0] if sizes else settings.probe


def _size(text: str) -> tuple[int, int]:
    from ois_client.contract.errors import InvalidInput

    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise InvalidInput(f"got the size {text!r}; expected WIDTHxHEIGHT, such as 64x64")
    return int(width), int(height)
