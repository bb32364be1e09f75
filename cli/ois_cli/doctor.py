"""`ois doctor`: check what works on this machine, and say how to fix the rest."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ois_cli import options, packages
from ois_cli.output import print_json, progress, say
from ois_client.contract.errors import CheckpointError, EngineError, InvalidInput, OISError
from ois_client.transports.address import is_server

_GIB = 2**30
_LOW_DISK_GIB = 2
_LOW_MEMORY_GIB = 2
_PYTHONS = ((3, 11), (3, 14))
_SERVER_PYTHONS = ((3, 11), (3, 12))  # of the embedded server, as in `ois_runtime.embedded.checks`
_ORT, _ORT_GPU = "onnxruntime", "onnxruntime-gpu"
_SERVER = "server"


class Status(StrEnum):
    OK = "ok"
    ABSENT = "absent"  # optional, and not installed
    BROKEN = "broken"

    @property
    def colour(self) -> str:
        return {"ok": "green", "absent": "yellow", "broken": "red"}[self.value]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    basic: no command works without it, or it was asked for. fix: what to do about it; "" if
    nothing.
    """

    area: str
    name: str
    status: Status
    detail: str
    fix: str = ""
    basic: bool = False


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    url: Annotated[
        str | None,
        typer.Option(
            help="Also check a running server: [b]grpc://host:8001[/b] or [b]http://host:8000[/b].",
            show_default=False,
        ),
    ] = None,
    token: options.Token = None,
) -> None:
    """Check what works on this machine, and say how to fix the rest.

    Checks Python, the packages, the hardware, the embedded server, the engines and the checkpoint.
    Exits with 1 if Python or a package of the base install is broken, or if the server of --url
    does not answer.
    """
    if url is not None and not is_server(url):
        raise InvalidInput(
            f"got --url {url}; expected a server's address, for example grpc://host:8001"
        )
    with progress("checking this machine (each package is imported once)"):
        findings = list(examine())
        if url is not None:
            findings.append(_server(url, token))
    lacking = [finding for finding in findings if finding.basic and finding.status is not Status.OK]
    if as_json:
        print_json({"healthy": not lacking, "findings": [asdict(finding) for finding in findings]})
    else:
        _print_table(findings)
    # last, so that the end of a log explains the exit code
    if parts := [finding for finding in lacking if finding.area != _SERVER]:
        names = ", ".join(finding.name for finding in parts)
        say(f"{parts[0].status} parts of the base install: {names}; {parts[0].fix}")
    elif lacking:
        say(f"{lacking[0].name}: {lacking[0].detail}")
    raise typer.Exit(1 if lacking else 0)


def examine() -> Iterator[Finding]:
    """All findings, in the order in which a new user needs the parts."""
    yield _python()
    yield from _packages()
    yield from _hardware()
    yield _tritonserver()
    yield from _engines()
    yield _checkpoint()


def _python() -> Finding:
    fits = _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]
    return Finding(
        "python",
        "Python",
        Status.OK if fits else Status.BROKEN,
        f"{platform.python_version()} at {sys.executable}",
        "" if fits else "use Python 3.11 to 3.14",
        basic=True,
    )


def _packages() -> Iterator[Finding]:
    states = packages.package_states()
    runtimes = {
        state.package.distribution: state.version
        for state in states
        if state.package.distribution in (_ORT, _ORT_GPU) and state.version is not None
    }
    if len(runtimes) == 2:
        yield _two_runtimes(runtimes)
    for state in states:
        package = state.package
        if package.distribution in (_ORT, _ORT_GPU) and runtimes:
            if len(runtimes) == 2:
                continue
            if state.version is None:
                yield _other_runtime(state, next(iter(runtimes.items())))
                continue
        basic = not package.extra
        wanted = f"ois-deploy[{package.extra}]" if package.extra else "ois-deploy"
        fix = f"pip install '{wanted}'"
        if package.extra == "serve":
            fix = _server_fix()
        if state.version is None:
            status, detail = Status.BROKEN if basic else Status.ABSENT, package.purpose
        elif state.problem is not None:
            status, detail = Status.BROKEN, f"{state.version} does not import: {state.problem}"
            fix = f"pip install --force-reinstall '{wanted}'"
        else:
            status, detail, fix = Status.OK, f"{state.version} ({package.purpose})", ""
        yield Finding("package", package.distribution, status, detail, fix, basic=basic)


def _two_runtimes(runtimes: dict[str, str]) -> Finding:
    """What to do if `onnxruntime` and `onnxruntime-gpu` are both installed.

    Both write the folder `onnxruntime`: the one installed last is imported, mixed with files that
    only the other has. Uninstalling one removes files of the other. So both are removed, and the
    one that fits this machine is installed again.
    """
    keep = _ORT_GPU if _has_gpu() else _ORT
    both = " and ".join(f"{name} {version}" for name, version in sorted(runtimes.items()))
    return Finding(
        "package",
        f"{_ORT}, {_ORT_GPU}",
        Status.BROKEN,
        f"{both} are both installed; expected one, because they overwrite each other's module "
        "onnxruntime",
        f"pip uninstall --yes {_ORT} {_ORT_GPU} && pip install {keep}=={runtimes[keep]}",
    )


def _other_runtime(state: packages.PackageState, installed: tuple[str, str]) -> Finding:
    """The ONNX Runtime that is not installed. installed: name and version of the one that is."""
    package, (name, version) = state.package, installed
    if package.distribution == _ORT:
        detail = f"{name} {version} runs on the CPU too"
        return Finding("package", _ORT, Status.OK, detail)
    fix = f"with an NVIDIA GPU: pip uninstall --yes {name} && pip install 'ois-deploy[gpu]'"
    return Finding("package", package.distribution, Status.ABSENT, package.purpose, fix)


def _has_gpu() -> bool:
    from ois_benchmarks import machine

    try:
        return bool(machine.gpus())
    except EngineError:
        return False


def _server_fix() -> str:
    """How to get the embedded server. On other versions of Python the extra installs nothing."""
    if _SERVER_PYTHONS[0] <= sys.version_info[:2] <= _SERVER_PYTHONS[1]:
        return "pip install 'ois-deploy[serve]'"
    return "the embedded server needs an environment of Python 3.11 or 3.12"


def _hardware() -> Iterator[Finding]:
    # Imported here so that `ois --help` stays quick.
    from ois_benchmarks import machine

    cpu = machine.cpu()
    bf16 = "bf16 in hardware" if cpu.native_bf16 else "no bf16 in hardware: use fp32 engines"
    features = ", ".join(cpu.features) or "features unknown"
    detail = f"{cpu.model}; {machine.available_cores()} threads; {features}; {bf16}"
    yield Finding("hardware", "CPU", Status.OK, detail)
    memory = machine.memory()
    if memory is None:
        detail = "this system does not report it"
        yield Finding("hardware", "memory", Status.ABSENT, detail)
    else:
        of = f"of {memory.total_bytes / _GIB:.1f} GiB"
        yield _amount("memory", memory.available_bytes, of, _LOW_MEMORY_GIB)
    folder = Path.cwd()
    yield _amount("disk", machine.free_disk_bytes(folder), f"at {folder}", _LOW_DISK_GIB)
    try:
        gpus = machine.gpus()
    except EngineError as error:
        fix = "CPU engines work without a GPU"
        yield Finding("hardware", "GPU", Status.ABSENT, str(error), fix)
        return
    cuda = ".".join(map(str, gpus[0].driver_cuda))
    detail = f"{', '.join(gpu.name for gpu in gpus)}; driver for CUDA {cuda}"
    yield Finding("hardware", "GPU", Status.OK, detail)


def _amount(name: str, free_bytes: int, rest: str, least_gib: float) -> Finding:
    free_gib = free_bytes / _GIB
    enough = free_gib >= least_gib
    return Finding(
        "hardware",
        name,
        Status.OK if enough else Status.BROKEN,
        f"{free_gib:.1f} GiB free {rest}",
        "" if enough else f"free some; {least_gib} GiB are recommended",
    )


def _tritonserver() -> Finding:
    binary = packages.tritonserver_binary()
    if binary is None:
        detail = "no tritonserver in this environment"
        return Finding("serving", "tritonserver", Status.ABSENT, detail, _server_fix())
    return Finding("serving", "tritonserver", Status.OK, str(binary))


def _engines() -> Iterator[Finding]:
    from ois_runtime.engines.manifest import EXPORT_COMMAND, MANIFEST_FILE, Manifest

    folders = {path.parent for path in Path("engines").glob(f"*/{MANIFEST_FILE}")}
    if named := os.environ.get("OIS_ENGINES"):
        folders.add(Path(named))
    if not folders:
        yield Finding("engines", "engines", Status.ABSENT, "none in ./engines", EXPORT_COMMAND)
    for folder in sorted(folders):
        try:
            manifest = Manifest.load(folder)
        except EngineError as error:
            yield Finding("engines", str(folder), Status.BROKEN, str(error), EXPORT_COMMAND)
            continue
        trained = "trained" if manifest.trained else "UNTRAINED: its masks are meaningless"
        detail = f"{manifest.name}, {manifest.target}, {manifest.precision}, {trained}"
        yield Finding("engines", str(folder), Status.OK, detail)


def _checkpoint() -> Finding:
    from ois_runtime.shipped import shipped_checkpoint

    try:
        path = shipped_checkpoint()
    except CheckpointError as error:
        return Finding("engines", "checkpoint", Status.ABSENT, "none is shipped", str(error))
    detail = f"{path} ({path.stat().st_size / 2**20:.1f} MiB)"
    return Finding("engines", "checkpoint", Status.OK, detail)


def _server(url: str, token: str | None) -> Finding:
    from ois_client.sessions.client import Client

    try:
        with Client(url, token=token) as client:
            info = client.info
    except OISError as error:
        return Finding(_SERVER, url, Status.BROKEN, str(error), basic=True)
    trained = "trained" if info.trained else "UNTRAINED: its masks are meaningless"
    detail = f"answers: {info.network}, {info.engine}, {trained}"
    return Finding(_SERVER, url, Status.OK, detail, basic=True)


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")  # a path that is cut off cannot be copied
    for finding in findings:
        text = escape(finding.detail)
        if finding.fix:
            text += f"\n[dim]-> {escape(finding.fix)}[/dim]"
        mark = f"[{finding.status.colour}]{finding.status}[/]"
        table.add_row(mark, escape(finding.name), text)
    Console().print(table)
