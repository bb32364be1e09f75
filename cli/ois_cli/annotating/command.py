"""`ois annotate`: makes the masks of many clicks on many images and writes them as COCO JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ois_cli import options
from ois_cli.annotating.input import read_input
from ois_cli.annotating.job import jobs_of
from ois_cli.annotating.work import Annotating
from ois_cli.batch.on_ray import RayPlan, crew_of
from ois_cli.batch.progress import EXIT_INCOMPLETE
from ois_cli.output import print_json, say, warn
from ois_cli.segment import UNTRAINED
from ois_client.contract.errors import InvalidInput, OutputError

HELP = """Make the masks of many clicks on many images and write them as COCO JSON.

FILE has one JSON object per line: an image, and clicks on one or more objects.

[dim]{"image": "a.jpg", "points": [[245, 150], [60, 200]], "labels": [1, 0], \
"category": "cat"}[/dim]

[dim]{"image": "b.jpg", "id": 7, "objects": [{"points": [[80, 40]]}, {"points": [[9, 9]]}]}[/dim]

A point is x and y in pixels of the upright image. Points are clicked in order; each refines the \
mask of the points before it. The label 1 adds and 0 removes; without labels, all points add. \
[b]category[/b] and [b]id[/b] are optional.

FILE can also be Parquet with these keys as columns, or a folder of such files; --output is then \
a folder. Files and images can be addresses, such as s3://bucket/photos/a.jpg.

Each image is encoded once. Lines that fail are listed in OUTPUT.errors.jsonl; the exit code is \
then 3. Finished lines are kept in OUTPUT.journal until all lines are finished. To continue after \
Ctrl-C, or after you corrected failed lines, run the same command again.

Example: [b]ois annotate clicks.jsonl --root photos --output masks.json[/b]

With workers on a Ray cluster: [b]ois annotate clicks.jsonl -o masks.json --ray auto[/b]
"""


def register(app: typer.Typer) -> None:
    app.command("annotate", help=HELP)(annotate)


def annotate(
    clicks: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="File with the clicks: JSON lines or Parquet. Or a folder of them.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The COCO file to write. For a folder of files, a folder with one for each.",
            show_default=False,
        ),
    ],
    root: Annotated[
        str | None,
        typer.Option(help="Folder of relative image paths. Default: the folder of FILE."),
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
    threads: options.Threads = None,
    ray: options.Ray = None,
    workers: options.Workers = None,
) -> int:
    """See `HELP`."""
    options.check_workers(ray, workers)
    threads, plan = _threads_and_plan(url, threads, ray, workers)
    jobs = jobs_of(clicks, output)
    is_folder = jobs[0].output != output
    todo = [job for job in jobs if overwrite or not job.is_finished]
    if not todo and not is_folder:
        raise OutputError(f"{output} exists; choose another output, or add --overwrite")
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} files are finished")
    started = time.monotonic()
    keys = ("lines", "done", "failed", "images", "annotations", "empty_masks")
    report: dict[str, Any] = dict.fromkeys(keys, 0)
    errors: list[str] = []
    if todo:
        given = read_input(todo[0].clicks, root)  # its errors are found before engines are opened
        work = Annotating(url=url, token=token, features=features, threads=threads)
        with crew_of(work, plan) as crew:
            if not crew.info.trained:
                warn(UNTRAINED)
            for job in todo:
                if job is not todo[0]:
                    given = read_input(job.clicks, root)
                counts = job.run(given, crew, overwrite=overwrite)
                report = {key: report[key] + counts[key] for key in keys}
                errors += [str(job.errors)] if counts["failed"] else []
            report["model_sha256"] = crew.info.model_sha256
    report["seconds"] = round(time.monotonic() - started, 3)
    report["output"] = str(output)
    report["errors"] = errors if is_folder else next(iter(errors), None)
    if as_json:
        print_json(report)
    else:
        print(
            f"{report['annotations']} masks on {report['images']} images, "
            f"{report['empty_masks']} of them empty; {report['failed']} of {report['lines']} lines "
            f"failed: {output}"
        )
    return EXIT_INCOMPLETE if report["failed"] else 0


def _threads_and_plan(
    url: str, threads: int | None, ray: str | None, workers: int | None
) -> tuple[int | None, RayPlan | None]:
    """The threads of the engines at `url`, and what Ray's workers need; None without Ray.

    threads: None leaves them to the address or the library; with Ray they are 1 by default. Raises
    `InvalidInput` if a server is given threads, or the address names one GPU of several.
    """
    if not url.startswith("local:"):
        if threads is not None:
            raise InvalidInput(
                f"got --threads with {url}; expected local:, for engines started here"
            )
        return None, None if ray is None else RayPlan(address=ray, workers=workers)
    if ray is None:
        return threads, None
    from ois_runtime.engines.local import CPU, LocalOptions

    _, chosen = LocalOptions.read(url.removeprefix("local:"), {})
    if chosen.device not in (CPU, "cuda"):
        raise InvalidInput(
            f"got --url {url} with --ray; expected the device cuda, because Ray gives each worker "
            "a GPU of its own"
        )
    if chosen.threads is None:
        threads = threads or 1
    plan = RayPlan(
        address=ray,
        workers=workers,
        threads=threads or chosen.threads or 1,
        on_gpu=chosen.device != CPU,
    )
    return threads, plan
