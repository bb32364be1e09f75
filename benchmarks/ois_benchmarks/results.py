"""Write the results of benchmarks to files, and read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import write_files


def write_result(path: Path, document: Mapping[str, Any], table: str | None = None) -> None:
    """Write a result as JSON and, with `table`, a Markdown file of the same name beside it.

    Makes the folder. Files are written whole or not at all, so an interrupted benchmark leaves
    the last complete result. Raises `OutputError` if they cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {path.parent}: {error.strerror or error}; choose another one"
        ) from error
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    contents = {path: text.encode()}
    if table is not None:
        contents[path.with_suffix(".md")] = table.encode()
    write_files(contents)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises `InvalidInput` if the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
