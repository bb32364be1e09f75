"""OIS's network and its exported engines for a benchmark, made once and only when wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ois_benchmarks.engines import prepare


class OisEngines:
    """A folder with `checkpoint.safetensors`, the engines and their manifest, while it is open."""

    def __init__(self, network: str, checkpoint: Path | None, say: Callable[[str], None]) -> None:
        self._network = network
        self._checkpoint = checkpoint
        self._say = say
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def folder(self) -> Path:
        """Raises `OISError` when the network cannot be exported."""
        if self._scratch is None:
            scratch = tempfile.TemporaryDirectory(prefix="ois-bench-engines-")
            try:
                prepare(Path(scratch.name), self._network, self._checkpoint, self._say)
            except BaseException:
                scratch.cleanup()
                raise
            self._scratch = scratch
        return Path(self._scratch.name)

    def __enter__(self) -> OisEngines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None
