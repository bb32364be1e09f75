"""Reading a result: a JSON file that a benchmark wrote, and that a person may have named wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ois_client.contract.errors import InvalidInput


def read_json(path: Path) -> Any:
    """Raises `InvalidInput` when the file cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
