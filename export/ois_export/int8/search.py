"""Which layers are quantised: as many as pass the gate.

First all of them are. If the robot user finds the masks too different, each layer is quantised
alone, and the error that this makes in the outputs is measured in the library that will run the
engines. So layers that a library computes wrongly are found as well, not only those that lack
precision. The layers with the largest errors then stay as they are: all that are broken, then one
more, two more, four more and so on, until the gate is passed or no layer is left.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_export.int8.options import GateLimits
from ois_export.int8.quantise import Quantiser
from ois_export.int8.robot import RobotGate, Verdict
from ois_export.parity.comparison import Progress
from ois_runtime.engines.pair import Arrays, EnginePair, Graph

#: A layer whose quantisation alone changes an output by more than this share of its standard
#: deviation is broken. All layers of `ois-photo` together make 0.02 to 0.1; layers that OpenVINO
#: 2026.4 computes wrongly, and that `layers` leaves out, made 0.5.
BROKEN = 0.2
_TIMED_RUNS = 4
#: Opens a graph in the library that will run it.
Open = Callable[[Path], Graph]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for one graph.

    layers: all that can be quantised. kept: those that were not.
    errors: of layers that were measured alone, empty if all passed the gate together.
    verdict: of the gate, in the last round; None if it was not asked. speed: how many times as fast
    the quantised graph is on this machine, 0 if there is none.
    """

    layers: tuple[str, ...]
    kept: tuple[str, ...]
    errors: dict[str, float]
    verdict: Verdict | None
    rounds: int
    speed: float

    @property
    def chosen(self) -> frozenset[str]:
        """The quantised layers."""
        return frozenset(self.layers) - frozenset(self.kept)

    @property
    def quantised(self) -> int:
        """The number of quantised layers; 0 if the graph is the fp32 one."""
        return len(self.chosen)

    def to_dict(self) -> dict[str, Any]:
        return {
            "layers": len(self.layers),
            "quantised": self.quantised,
            "kept": list(self.kept),
            "errors": {name: float(f"{error:.3g}") for name, error in self.errors.items()},
            "rounds": self.rounds,
            "times_as_fast": round(self.speed, 2),
            "gate": None if self.verdict is None else self.verdict.to_dict(),
        }


def choose(
    graph: Path,
    quantiser: Quantiser,
    given: Sequence[Arrays],
    *,
    open_graph: Open,
    pair_with: Callable[[Path], EnginePair],
    gate: RobotGate | None,
    limits: GateLimits,
    progress: Progress,
) -> Choice:
    """Replace the fp32 graph at `graph` by the quantised one that passes the gate.

    given: inputs that layers are measured on. pair_with: the engines with another file for this
    graph. gate: None quantises every layer. The file stays as it is if nothing passes.
    """
    names = tuple(quantiser.layers)
    order, errors = list(names), dict[str, float]()
    kept, rounds, step = 0, 0, 1
    verdict = None
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / graph.name
        while kept < len(order):
            quantiser.write(trial, order[kept:])
            rounds += 1
            if gate is None:
                break
            progress(f"{graph.stem}: {len(order) - kept} of {len(order)} layers in int8")
            verdict = gate.judge(pair_with(trial))
            broken = verdict.broken(limits)
            if not broken:
                break
            progress(f"{graph.stem}: {'; '.join(broken)}")
            if not errors:
                errors = measure(graph, Path(scratch), quantiser, given, open_graph, progress)
                order.sort(key=lambda name: errors[name], reverse=True)
                kept = max(1, sum(error > BROKEN for error in errors.values()))
            else:
                kept += step
                step *= 2
        kept = min(kept, len(order))
        speed = 0.0
        if kept < len(order):
            progress(f"{graph.stem}: time without and with int8")
            speed = times_as_fast(open_graph(graph), open_graph(trial), given)
            shutil.copyfile(trial, graph)
    return Choice(names, tuple(order[:kept]), errors, verdict, rounds, speed)


def times_as_fast(before: Graph, after: Graph, given: Sequence[Arrays]) -> float:
    """How many times as fast `after` is, by the best of a few runs of each in turn."""
    best = dict.fromkeys((before, after), float("inf"))
    for _ in range(_TIMED_RUNS):
        for graph in best:
            started = time.perf_counter()
            for feeds in given:
                graph.run({name: feeds[name] for name in graph.inputs})
            best[graph] = min(best[graph], time.perf_counter() - started)
    return best[before] / best[after]


def measure(
    graph: Path,
    scratch: Path,
    quantiser: Quantiser,
    given: Sequence[Arrays],
    open_graph: Open,
    progress: Progress,
) -> dict[str, float]:
    """Quantise each layer alone, and return its largest relative error in any output.

    It is the root mean square of the difference over the standard deviation of the output, and
    infinite if the library cannot run the layer, or makes numbers of it that are not finite.
    """
    alone = scratch / f"alone-{graph.name}"
    wanted = _outputs(open_graph(graph), given)
    errors = {}
    for number, name in enumerate(quantiser.layers, 1):
        quantiser.write(alone, [name])
        try:
            got = _outputs(open_graph(alone), given)
        except EngineError as error:
            progress(f"{graph.stem}: {name} does not run in int8: {error}")
            errors[name] = float("inf")
            continue
        errors[name] = max(_error(*pair) for pair in zip(got, wanted, strict=True))
        progress(
            f"{graph.stem}, layer {number}/{len(quantiser.layers)}: {name} alone in int8 has an "
            f"error of {errors[name]:.2g}"
        )
    return errors


def _outputs(graph: Graph, given: Sequence[Arrays]) -> list[NDArray[np.float64]]:
    """The outputs that are floating point and not single numbers, for all inputs."""
    found = []
    for feeds in given:
        outputs = graph.run({name: feeds[name] for name in graph.inputs})
        arrays = (outputs[name] for name in sorted(outputs))
        found += [a.astype(np.float64) for a in arrays if a.size > 1 and a.dtype.kind == "f"]
    return found


def _error(got: NDArray[np.float64], want: NDArray[np.float64]) -> float:
    error = float(np.sqrt(((got - want) ** 2).mean()) / (want.std() or 1.0))
    return error if np.isfinite(error) else float("inf")
