"""OIS's network and its exported engines for a benchmark, made once and only when needed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

from ois_benchmarks.contestants.base import CHECKPOINT
from ois_client.contract.errors import EngineError, OISError
from ois_runtime.engines.manifest import Manifest


def write_network(
    folder: Path,
    network: str,
    checkpoint: Path | None,
    *,
    exported: bool,
    target: str = "cpu",
    precision: str = "fp32",
    region: bool = False,
) -> None:
    """Write a network's `CHECKPOINT` into `folder` and, if `exported`, its graphs and manifest.

    network: a preset, with random weights. checkpoint: use this network instead; it may already be
    the one in `folder`. target, precision, region: of the graphs, as for `ois export`. The graphs
    are not checked for parity, because the limits are for trained networks.
    """
    from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
    from ois_network.config import preset
    from ois_network.initialise import build, randomise

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / CHECKPOINT
    if checkpoint is None:
        save_checkpoint(randomise(build(preset(network))), file, trained=False)
    elif checkpoint != file:
        shutil.copy(checkpoint, file)
    if exported:
        from ois_export.export import write_engines
        from ois_export.targets import Target

        chosen = Target.parse(target)
        chosen.check(precision)
        write_engines(
            load_checkpoint(file),
            folder,
            name="bench",
            target=chosen,
            precision=precision,
            region=region,
        )


def write_int8(folder: Path, output: Path) -> Path:
    """Quantise the fp32 engines in `folder` into `output`, unless it exists, and return `output`.

    The robot user of `ois export` judges the engines of a trained network. With random weights
    every layer is quantised, because no mask says which may be.
    """
    if output.is_dir():
        return output
    from ois_export.int8.engines import quantise_engines
    from ois_export.int8.options import Int8Options
    from ois_export.publish import publish, staging
    from ois_export.region.parts import gated

    before = Manifest.load(folder)
    with staging(output) as staged:
        for file in (*(engine.file for engine in before.files), CHECKPOINT):
            shutil.copy(folder / file, staged / file)
        made = quantise_engines(staged, before, Int8Options(), gated=before.trained)
        if before.region is not None and before.region.accepted:
            made = gated(made, staged, lambda _: None)
        made.save(staged)
        publish(staged, output)
    return output


def prepare(
    folder: Path,
    network: str,
    checkpoint: Path | None,
    say: Callable[[str], None],
    *,
    exported: bool,
    region: bool = False,
) -> Path:
    """Call `write_network` in another process, which takes the exporter's memory with it.

    Returns the path of the checkpoint in `folder`. Raises `EngineError` with the reason if the
    network cannot be written or exported.
    """
    if exported:
        say("exporting the engines once, without a parity check")
    write = partial(write_network, folder, network, checkpoint, exported=exported, region=region)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(write).result()
    except (OISError, OSError) as error:
        raise EngineError(f"could not prepare the engines: {error}") from error
    except BrokenProcessPool as error:
        raise EngineError(
            "could not prepare the engines: the process ended, probably because memory ran out; "
            "close other programs or choose a smaller network"
        ) from error
    return folder / CHECKPOINT


class OisEngines:
    """A temporary folder with `CHECKPOINT` and, once they are asked for, its exported engines.

    Use it as a context manager; the folder is deleted at the end.
    """

    def __init__(
        self,
        network: str,
        checkpoint: Path | None,
        say: Callable[[str], None],
        *,
        region: bool = False,
    ) -> None:
        """network, checkpoint, region: as for `write_network`. say: receives progress messages."""
        self._region = region
        self._network = network
        self._checkpoint = checkpoint
        self._say = say
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._exported = False

    def folder(self, *, exported: bool) -> Path:
        """The folder. exported: with the engines.

        Raises `EngineError` if the network cannot be exported.
        """
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
            # Export the same weights that other contestants were measured with.
            self._prepare(folder, folder / CHECKPOINT, exported=True)
        return folder

    def _prepare(self, folder: Path, checkpoint: Path | None, *, exported: bool) -> None:
        region = self._region and exported
        prepare(folder, self._network, checkpoint, self._say, exported=exported, region=region)
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
