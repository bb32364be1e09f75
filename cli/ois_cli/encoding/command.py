"""`ois encode`: encodes images before their first click, into a server's store or a folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ois_cli import options
from ois_cli.batch.on_ray import RayPlan, crew_of
from ois_cli.batch.places import LIST_SUFFIXES, find_images, join, parent, records, suffix_of
from ois_cli.batch.progress import EXIT_INCOMPLETE, Failure, counted, say_failures
from ois_cli.encoding.work import Encoded, ToFolder, ToServer
from ois_cli.output import print_json, say, warn
from ois_client.contract.errors import InvalidInput
from ois_client.transports.address import is_server

HELP = """Encode images before their first click, so that the first click is fast.

With --url, the images are sent to a running server, which keeps their features while its store \
has space. With --output, the features are written to a folder, which is used by \
[b]ois annotate --features FOLDER[/b], [b]ois segment --features FOLDER[/b] and \
[b]Client("local:?features=FOLDER")[/b]. Features can be used only with the engines that made them.

Images that have features are skipped, so an interrupted run continues with the same command. \
Images that fail are listed; the exit code is then 3.

Example: [b]ois encode photos/ --recursive --output features[/b]

With a server: [b]ois encode photos/ --url grpc://host:8001[/b]

With workers on a Ray cluster: [b]ois encode s3://bucket/photos --output /shared/features --ray \
auto[/b]
"""


def register(app: typer.Typer) -> None:
    app.command("encode", help=HELP)(encode)


def encode(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, and lists of images: JSON lines or Parquet with the "
            "key [b]image[/b], such as the input of [b]ois annotate[/b]. Also addresses.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the features, one file per image.", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server to prewarm: [b]grpc://host:8001[/b] or [b]http://host:8000[/b].",
            show_default=False,
        ),
    ] = None,
    token: options.Token = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also search subfolders.")
    ] = False,
    root: Annotated[
        str | None,
        typer.Option(help="Folder of relative paths in lists. Default: the folder of the list."),
    ] = None,
    as_json: options.AsJson = False,
    engines: options.Engines = None,
    backend: options.Backend = "onnxruntime",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    ray: options.Ray = None,
    workers: options.Workers = None,
) -> int:
    """See `HELP`."""
    if (output is None) == (url is None):
        raise InvalidInput(
            "got --output and --url, or neither; expected --output FOLDER or --url ADDRESS"
        )
    if url is not None and not is_server(url):
        raise InvalidInput(
            f"got --url {url}; expected a server's address, for example grpc://host:8001"
        )
    options.check_workers(ray, workers)
    plan = None
    if ray is not None:
        if url is not None:
            raise InvalidInput(
                "got --ray with --url; expected --output, because the server does the work. Leave "
                "--ray out"
            )
        threads = threads or 1
        plan = RayPlan(address=ray, workers=workers, threads=threads)
    listed, failures = _with_listed(images, root)
    paths = find_images(listed, recursive=recursive)
    total = len(paths) + len(failures)
    started = time.monotonic()
    to_server = None if url is None else ToServer(url=url, token=token)
    to_folder = ToFolder(
        folder=output or Path(),
        engines=engines,
        backend=backend,
        precision=precision,
        threads=threads,
    )
    done: dict[str, Encoded] = {}
    with crew_of(to_server or to_folder, plan) as crew:
        resume = "Encoded images are kept; run the same command again to continue"
        with counted("encoding", len(paths), resume) as counter:
            for one in crew.results(paths):
                done[one.image] = one
                counter.add(failed=int(one.error is not None))
    good = [one for one in done.values() if one.error is None]
    failures += [
        Failure({"image": path}, error) for path in paths if (error := done[path].error) is not None
    ]
    existing = sum(one.existed for one in good)
    report: dict[str, Any] = {
        "images": total,
        "encoded": len(good) - existing,
        "already_there": existing,
        "failed": [failure.to_dict() for failure in failures],
        "seconds": round(time.monotonic() - started, 3),
        "model_sha256": crew.info.model_sha256,
    }
    if to_server is not None:
        # A full store drops the oldest image first, so if the first is there, all are.
        report["all_there"] = not good or to_server.holds(good[0].image)
        if not report["all_there"]:
            warn(
                "the server's store has no room for all images and dropped the first; enlarge it "
                "(ois serve --cache-bytes) or encode fewer images at a time"
            )
    else:
        report["bytes_written"] = sum(one.bytes_written for one in good)
        say(f"{_count(to_folder.folder)} images have features in {output}")
    say_failures(failures, "; --json lists all of them")
    if as_json:
        print_json(report)
    else:
        print(
            f"{report['encoded']} encoded, {existing} existed, {len(failures)} failed, in "
            f"{report['seconds']:.1f} s: {output or url}"
        )
    return EXIT_INCOMPLETE if failures else 0


def _with_listed(places: list[str], root: str | None) -> tuple[list[str], list[Failure]]:
    """The places with every list replaced by the images in it, and the lines without an image.

    root: the folder of relative paths; None: the folder of the list.
    """
    found: list[str] = []
    failures: list[Failure] = []
    for place in places:
        if suffix_of(place) not in LIST_SUFFIXES:
            found.append(place)
            continue
        for number, raw in records(place):
            try:
                found.append(join(root or parent(place), _image_of(raw)))
            except InvalidInput as error:
                failures.append(Failure({"list": place, "line": number}, error))
    return found, failures


def _image_of(raw: bytes | dict[str, Any]) -> str:
    try:
        record = json.loads(raw) if isinstance(raw, bytes) else raw
        name = record["image"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidInput(
            f"got a line that names no image ({type(error).__name__}: {error}); expected "
            '{"image": "a.jpg"}'
        ) from None
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidInput(f"got image = {name!r}; expected the path of an image")
    return name


def _count(folder: Path) -> int:
    from ois_runtime.engines.features import SUFFIX

    return sum(1 for _ in folder.glob(f"*{SUFFIX}"))
