"""`ois annotate`: makes the masks of many clicks on many images and writes them as COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ois_cli import files, options
from ois_cli.annotating.coco import document
from ois_cli.annotating.input import Input, Line, Target, read_input
from ois_cli.annotating.journal import FinishedLine, Journal, MaskRecord, file_stamp
from ois_cli.batch.progress import (
    EXIT_INCOMPLETE,
    Counter,
    Failure,
    counted,
    error_of_item,
    say_failures,
)
from ois_cli.clicking import OBJECTS_AT_ONCE, fits_one_request, object_box
from ois_cli.output import print_json, progress, warn
from ois_cli.segment import UNTRAINED
from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import write_files
from ois_client.contract.images import load_image
from ois_client.contract.masks import coco_of_mask
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session
from ois_client.transports.address import is_server

_FORMATS = {".json": "JSON"}


HELP = """Make the masks of many clicks on many images and write them as COCO JSON.

FILE.jsonl has one JSON object per line: an image, and clicks on one or more objects.

[dim]{"image": "a.jpg", "points": [[245, 150], [60, 200]], "labels": [1, 0], \
"category": "cat"}[/dim]

[dim]{"image": "b.jpg", "id": 7, "objects": [{"points": [[80, 40]]}, {"points": [[9, 9]]}]}[/dim]

A point is x and y in pixels of the upright image. Points are clicked in order; each refines the \
mask of the points before it. The label 1 adds and 0 removes; without labels, all points add. \
[b]category[/b] and [b]id[/b] are optional.

Each image is encoded once. Lines that fail are listed in OUTPUT.errors.jsonl; the exit code is \
then 3. Finished lines are kept in OUTPUT.journal until all lines are finished. To continue after \
Ctrl-C, or after you corrected failed lines, run the same command again.

Example: [b]ois annotate clicks.jsonl --root photos --output masks.json[/b]
"""


def register(app: typer.Typer) -> None:
    app.command("annotate", help=HELP)(annotate)


def annotate(
    clicks: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="File with the clicks.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The COCO file to write.", show_default=False)
    ],
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of relative image paths. Default: the folder of FILE.jsonl."),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            help="Where the engines run: [b]local:[/b] or [b]local:FOLDER[/b] in this process, "
            "[b]grpc://host:8001[/b] or [b]http://host:8000[/b] on a server."
        ),
    ] = "local:",
    token: options.Token = None,
    features: options.Features = None,
    overwrite: Annotated[
        bool, typer.Option(help="Discard an existing result or journal and start again.")
    ] = False,
    as_json: options.AsJson = False,
) -> int:
    """See `HELP`."""
    journal_file, errors_file = (
        output.with_name(output.name + end) for end in (".journal", ".errors.jsonl")
    )
    files.check_output(output, _FORMATS)
    files.check_distinct([output, journal_file, errors_file], [clicks])
    if output.exists() and not journal_file.exists() and not overwrite:
        raise OutputError(f"{output} exists; choose another output, or add --overwrite")
    given = read_input(clicks, root)
    with open_client(url, token, features) as client:
        if not client.info.trained:
            warn(UNTRAINED)
        with Journal(journal_file, client.info, overwrite=overwrite) as journal:
            found = _work(given, client, journal, stateless=is_server(url))
            failures = [*given.failures, *found]
            failures.sort(key=lambda failure: failure.item["line"])
            finished = _finished_lines(given, journal)
            result = document(given, finished, client.info, journal.engines)
            write_files({output: json.dumps(result).encode() + b"\n"})
            _write_failures(errors_file, failures)
            if not failures:
                journal.remove()
    say_failures(failures, f"; {errors_file} lists all")
    report = {
        "lines": len(given.lines) + len(given.failures),
        "done": len(finished),
        "failed": len(failures),
        "images": len(result["images"]),
        "annotations": len(result["annotations"]),
        "empty_masks": sum(one["area"] == 0 for one in result["annotations"]),
        "model_sha256": client.info.model_sha256,
        "output": str(output),
        "errors": str(errors_file) if failures else None,
    }
    if as_json:
        print_json(report)
    else:
        print(
            f"{report['annotations']} masks on {report['images']} images, "
            f"{report['empty_masks']} of them empty; {len(failures)} of {report['lines']} lines "
            f"failed: {output}"
        )
    return EXIT_INCOMPLETE if failures else 0


def open_client(url: str, token: str | None, features: Path | None) -> Client:
    """Open the engines at `url`.

    Raises what `Client` raises, and `InvalidInput` if a server is given features on disk.
    """
    if is_server(url) and features is not None:
        raise InvalidInput(
            f"got --features with {url}; expected local:, because a server cannot read features "
            f"on this disk. `ois encode --url {url}` encodes the images on the server"
        )
    available: dict[str, Any] = {"token": token} if is_server(url) else {"features": features}
    chosen = {name: value for name, value in available.items() if value is not None}
    with progress("connecting" if is_server(url) else "loading the engines"):
        return Client(url, **chosen)


def _work(given: Input, client: Client, journal: Journal, *, stateless: bool) -> list[Failure]:
    """Finish the lines that the journal does not have. Returns the lines that failed.

    stateless: an image that needs one answer only is sent in one request, so that the server does
    not keep features that nobody asks for again.
    """
    groups = [
        (image, todo)
        for image, lines in given.by_image().items()
        if (todo := [line for line in lines if journal.find(line.key, file_stamp(image)) is None])
    ]
    failures: list[Failure] = []
    count = sum(len(todo) for _, todo in groups)
    resume = "Finished lines are kept; run the same command again to continue"
    with counted("annotating", count, resume) as counter:
        for image, todo in groups:
            stamp = file_stamp(image) or (0, 0)
            if stateless and len(todo) == 1 and _fits_one_request(todo[0]):
                _finish_alone(todo[0], client, stamp, journal, failures, counter)
                continue
            try:
                session = client.open(image)
            except Exception as error:
                failures += [line.failure(error_of_item(error)) for line in todo]
                counter.add(len(todo), failed=len(todo))
                continue
            for line in todo:
                _finish(line, session, stamp, journal, failures, counter)
    return failures


def _finish(
    line: Line,
    session: Session,
    stamp: tuple[int, int],
    journal: Journal,
    failures: list[Failure],
    counter: Counter,
) -> None:
    picture = session.picture
    try:
        for target in line.targets:
            for click in target.clicks:
                click.check(picture.width, picture.height)
        found = tuple(
            one
            for start in range(0, len(line.targets), OBJECTS_AT_ONCE)
            for one in masks_of(session, line.targets[start : start + OBJECTS_AT_ONCE])
        )
    except Exception as error:
        failures.append(line.failure(error_of_item(error)))
        counter.add(failed=1)
        return
    sides = picture.width, picture.height
    journal.add(FinishedLine(line.key, stamp, *sides, picture.digest, found))
    counter.add()


def _fits_one_request(line: Line) -> bool:
    return fits_one_request([target.clicks for target in line.targets])


def _finish_alone(
    line: Line,
    client: Client,
    stamp: tuple[int, int],
    journal: Journal,
    failures: list[Failure],
    counter: Counter,
) -> None:
    """`_finish` in one request without a session."""
    try:
        picture = load_image(line.image)
        reply = client.segment(picture.data, [target.clicks for target in line.targets])
    except Exception as error:
        failures.append(line.failure(error_of_item(error)))
        counter.add(failed=1)
        return
    sides = picture.width, picture.height
    found = tuple(map(_record, reply.masks))
    journal.add(FinishedLine(line.key, stamp, *sides, picture.digest, found))
    counter.add()


def masks_of(session: Session, targets: tuple[Target, ...]) -> Iterator[MaskRecord]:
    """Yield the mask of each object after all its clicks.

    The n-th clicks of all objects are sent in one request. Uses the session's first objects and
    resets them.
    """
    while len(session.objects) < len(targets):
        session.new_object()
    objects = session.objects[: len(targets)]
    try:
        for turn in range(max(len(target.clicks) for target in targets)):
            session.click_many(
                {
                    obj: target.clicks[turn]
                    for obj, target in zip(objects, targets, strict=True)
                    if turn < len(target.clicks)
                }
            )
        for obj in objects:
            yield _record(session.mask(obj))
    finally:
        for obj in objects:
            session.reset(obj)


def _record(mask: NDArray[np.uint8]) -> MaskRecord:
    corners = object_box(mask)
    x0, y0, x1, y1 = corners or (0, 0, -1, -1)
    return MaskRecord(
        coco_of_mask(mask)["counts"], int(mask.sum()), (x0, y0, x1 - x0 + 1, y1 - y0 + 1)
    )


def _finished_lines(given: Input, journal: Journal) -> dict[int, FinishedLine]:
    stamps = {image: file_stamp(image) for image in given.by_image()}
    found = ((line.number, journal.find(line.key, stamps[line.image])) for line in given.lines)
    return {number: line for number, line in found if line is not None}


def _write_failures(path: Path, failures: list[Failure]) -> None:
    """Write all failures as JSON lines; without failures, remove the file."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    rows: list[dict[str, Any]] = [failure.to_dict() for failure in failures]
    write_files({path: "".join(json.dumps(row) + "\n" for row in rows).encode()})
