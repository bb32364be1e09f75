"""Does TensorRT need a plugin for the masked attention? Two measurements decide.

    python -m ois_benchmarks.gpu.layers ENGINES . --shape 1022x1022 --objects 1
    python -m ois_benchmarks.gpu.kernels --output kernels.json
    python -m ois_benchmarks.gpu.plugin trtexec-profile.json kernels.json \\
        --layer-info trtexec-layers.json --objects 1 --keys 5329

A plugin can save at most what TensorRT spends on that attention (scaling and padding masks
included; making them only where TensorRT fuses it into the rest) beyond what the kernels take, both
on the same GPU and for the same size. It is worth building where that is at least `WORTH` of a
click. A plugin also splits a fused region in two, which costs more, so this is its best case.

TensorRT's compiler (Myelin) gives what it fuses names of its own, in which no node of the graph is
to be recognised. The layer information has the nodes' names in each layer's metadata: a fused
layer counts whole, with what else is in it, which again is the plugin's best case.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ois_benchmarks.results import read_json
from ois_client.contract.errors import InvalidInput, OISError

WORTH = 0.05
#: Names that say nothing about the graph.
_FUSED = re.compile(r"myl|ForeignNode", re.IGNORECASE)
#: The fusion's two attentions and what is done to masks for them, as exported graphs name their
#: nodes: the module, then the node. Projections are modules of their own.
LAYERS = r"\bfusion(\.blocks\.\d+(\.(order|object)_attention)?)?/"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Microseconds of one click."""

    click_us: float
    tensorrt_us: float
    kernels_us: float

    @property
    def saved_us(self) -> float:
        return max(0.0, self.tensorrt_us - self.kernels_us)

    @property
    def needed(self) -> bool:
        return self.saved_us >= WORTH * self.click_us

    def sentence(self) -> str:
        share = self.saved_us / self.click_us
        answer = "build the plugin" if self.needed else "no plugin"
        return (
            f"{answer}: TensorRT spends {self.tensorrt_us:.1f} us of a click's "
            f"{self.click_us:.1f} us on masked attention, the kernels {self.kernels_us:.1f} us; "
            f"a plugin saves at most {share:.1%} (the rule: at least {WORTH:.0%})"
        )


def decide(
    profile: Any,
    kernels: Any,
    *,
    objects: int,
    keys: int,
    layers: str = LAYERS,
    layer_info: Any = None,
) -> Verdict:
    """profile: of trtexec --exportProfile; kernels: of `ois_benchmarks.gpu.kernels --output`;
    layer_info: of trtexec --exportLayerInfo with detailed profiling, for layers that are fused.

    Raises `InvalidInput` when either does not hold what is needed.
    """
    try:
        if not isinstance(profile, list):
            raise TypeError(f"the profile is no list but {type(profile).__name__}")
        named = [(str(e["name"]), float(e["averageMs"])) for e in profile if "name" in e]
        rows = {(row["call"]["objects"], row["call"]["keys"]): row for row in kernels["rows"]}
        nodes = _nodes(layer_info)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"got something else than a layer profile and a kernel benchmark: {error!r}; see "
            "python -m ois_benchmarks.gpu.plugin --help for how both are made"
        ) from error
    attention = [ms for name, ms in named if re.search(layers, f"{name} {nodes.get(name, '')}")]
    if not attention:
        fused = [ms for name, ms in named if _FUSED.search(name)]
        raise InvalidInput(
            f"none of the profile's {len(named)} layers is named like {layers!r}; {len(fused)} of "
            f"them are fused regions of TensorRT's ({1000 * sum(fused):.1f} us), whose names say "
            "nothing. Give --layer-info, of trtexec --exportLayerInfo with "
            "--profilingVerbosity=detailed, or look for them and give --layers a pattern"
        )
    if (objects, keys) not in rows:
        measured = ", ".join(f"{n} objects with {k} keys" for n, k in sorted(rows))
        raise InvalidInput(
            f"the kernels were not measured for {objects} objects with {keys} keys, only for "
            f"{measured or 'nothing'}"
        )
    return Verdict(
        1000 * sum(ms for _, ms in named),
        1000 * sum(attention),
        float(rows[objects, keys]["kernels_cold"]["median"]),
    )


def _nodes(layer_info: Any) -> dict[str, str]:
    """Layer -> the nodes it is made of; nothing where the engine was built without details."""
    if layer_info is None:
        return {}
    described = [layer for layer in layer_info["Layers"] if isinstance(layer, dict)]
    return {str(layer["Name"]): str(layer.get("Metadata", "")) for layer in described}


def arguments() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ois_benchmarks.gpu.plugin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("profile", type=Path, help="of trtexec --exportProfile")
    parser.add_argument(
        "kernels", type=Path, help="of python -m ois_benchmarks.gpu.kernels --output"
    )
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--keys", type=int, default=5329, help="patches of the image")
    parser.add_argument("--layers", default=LAYERS, help="regular expression of their names")
    parser.add_argument("--layer-info", type=Path, help="of trtexec --exportLayerInfo")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = arguments().parse_args(argv)
    try:
        re.compile(options.layers)
        verdict = decide(
            read_json(options.profile),
            read_json(options.kernels),
            objects=options.objects,
            keys=options.keys,
            layers=options.layers,
            layer_info=read_json(options.layer_info) if options.layer_info else None,
        )
    except re.error as error:
        print(f"error: --layers {options.layers!r} is no pattern: {error}", file=sys.stderr)
        return 2
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(verdict.sentence())
    return 0


if __name__ == "__main__":
    sys.exit(main())
