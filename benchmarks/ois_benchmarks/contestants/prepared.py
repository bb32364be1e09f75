"""OIS's network and its exported engines for a benchmark, made once and only when wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.latency.engines import prepare


class OisEngines:
    """A folder with `CHECKPOINT` and, once somebody wants them, the engines and their
    manifest, while it is open.
    """

    def __init__(self, network: str, checkpoint: Path | None, say: Callable[[str], None]) -> None:
        self._network = network
        self._checkpoint = checkpoint
        self._say = say
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._exported = False

    def folder(self, *, exported: bool) -> Path:
        """exported: with the engines. Raises `OISError` when the network cannot be exported."""
        if self._scratch is None:
            scratch = tempfile.TemporaryDirectory(prefix="ois-bench-engines-")
            try:
                self._prepare(Path(scratch.name), self._checkpoint, exported=exported)
            except BaseException:
                scratch.cleanup()
                raise
            self._scratch = scratch
        folder = Path(self._scratch.name)
        if exported and not self._exported:
            # Of the very weights that the others were measured with.
            self._prepare(folder, folder / CHECKPOINT, exported=True)
        return folder

    def _prepare(self, folder: Path, checkpoint: Path | None, *, exported: bool) -> None:
        prepare(folder, self._network, checkpoint, self._say, exported=exported)
        self._exported = exported

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
