"""One file of clicks and its COCO file: what is left to do, and the result when it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ois_cli import files
from ois_cli.annotating.coco import document
from ois_cli.annotating.input import Input
from ois_cli.annotating.journal import FinishedLine, Journal, file_stamp
from ois_cli.annotating.work import ImageLines, LineResult
from ois_cli.batch.crew import Crew
from ois_cli.batch.places import LIST_SUFFIXES, files_in, is_address
from ois_cli.batch.progress import Failure, counted, say_failures
from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.files import write_files

_FORMATS = {".json": "JSON"}


@dataclass(frozen=True, slots=True)
class Job:
    """clicks: path or address of the file of clicks. output: the COCO file."""

    clicks: str
    output: Path

    @property
    def journal(self) -> Path:
        return self.output.with_name(self.output.name + ".journal")

    @property
    def errors(self) -> Path:
        """The file that lists the lines that failed."""
        return self.output.with_name(self.output.name + ".errors.jsonl")

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run finished all lines."""
        return self.output.exists() and not self.journal.exists()

    def check(self) -> None:
        """Raises `InvalidInput` or `OutputError` if the output cannot be written."""
        files.check_output(self.output, _FORMATS)
        inputs = [] if is_address(self.clicks) else [Path(self.clicks)]
        files.check_distinct([self.output, self.journal, self.errors], inputs)

    def run(
        self, given: Input, crew: Crew[ImageLines, LineResult], *, overwrite: bool
    ) -> dict[str, int]:
        """Annotate the lines that the journal does not have, and write the document.

        given: the content of `clicks`. Returns its part of the report.
        """
        with Journal(self.journal, crew.info, overwrite=overwrite) as journal:
            failures = [*given.failures, *_work(given, crew, journal)]
            failures.sort(key=lambda failure: failure.item["line"])
            finished = _finished_lines(given, journal)
            result = document(given, finished, crew.info, journal.engines)
            write_files({self.output: json.dumps(result).encode() + b"\n"})
            _write_failures(self.errors, failures)
            if not failures:
                journal.remove()
        say_failures(failures, f"; {self.errors} lists all")
        return {
            "lines": len(given.lines) + len(given.failures),
            "done": len(finished),
            "failed": len(failures),
            "images": len(result["images"]),
            "annotations": len(result["annotations"]),
            "empty_masks": sum(one["area"] == 0 for one in result["annotations"]),
        }


def jobs_of(clicks: str, output: Path) -> list[Job]:
    """The jobs for a file of clicks, or for all files in a folder; `output` is then a folder too.

    Makes that folder. Raises `InvalidInput` if the folder of clicks has no file, or two files
    would have the same output.
    """
    lists = files_in(clicks, LIST_SUFFIXES)
    if lists is None:
        jobs = [Job(clicks, output)]
    elif not lists:
        raise InvalidInput(
            f"got the folder {clicks} without a file of clicks; expected names that end in "
            f"{', '.join(LIST_SUFFIXES)}"
        )
    else:
        files.make_folder(output)
        names = (Path(one.partition("?")[0]).stem for one in lists)
        jobs = [Job(one, output / f"{name}.json") for one, name in zip(lists, names, strict=True)]
        files.check_distinct([job.output for job in jobs], [])
    for job in jobs:
        job.check()
    return jobs


def _work(given: Input, crew: Crew[ImageLines, LineResult], journal: Journal) -> Iterator[Failure]:
    """Finish the lines that the journal does not have. Yields the lines that failed."""
    todo = []
    for image, lines in given.by_image().items():
        stamp = file_stamp(image)
        if left := tuple(line for line in lines if journal.find(line.key, stamp) is None):
            todo.append(ImageLines(image, stamp or (0, 0), left))
    by_number = {line.number: line for group in todo for line in group.lines}
    resume = "Finished lines are kept; run the same command again to continue"
    with counted("annotating", len(by_number), resume) as counter:
        for result in crew.results(todo):
            if isinstance(result.found, OISError):
                yield by_number[result.number].failure(result.found)
                counter.add(failed=1)
            else:
                journal.add(result.found)
                counter.add()


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
