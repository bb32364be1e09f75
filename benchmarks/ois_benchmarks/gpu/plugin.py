"""`ois bench plugin`: does TensorRT need a plugin for the masked attention?

Two measurements decide: the profile of TensorRT's layers (`ois bench layers`) and the times of our
kernels (`ois bench kernels`), on the same GPU and for the same size. A plugin can save at most what
TensorRT spends on that attention beyond what the kernels take. Scaling and padding the masks count
as attention; making the masks counts only if TensorRT fuses it into the rest. A plugin is worth
building if it saves at least `WORTH` of a click. This is the plugin's best case: it also splits a
fused region in two, which costs more.

TensorRT's compiler (Myelin) gives fused regions names of its own, in which the graph's nodes cannot
be recognised. The layer information lists the nodes of each layer in its metadata. A fused layer
counts as a whole, with everything in it, which again is the plugin's best case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ois_client.contract.errors import InvalidInput

WORTH = 0.05
#: Names that contain no name of a node.
_FUSED = re.compile(r"myl|ForeignNode", re.IGNORECASE)
#: The fusion's two attentions and the operations on their masks, as exported graphs name their
#: nodes: the module, then the node. Projections are modules of their own.
LAYERS = r"\bfusion(\.blocks\.\d+(\.(order|object)_attention)?)?/"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Microseconds of one click, and of its masked attention in TensorRT and in the kernels."""

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
    """Compare the attention in TensorRT with the kernels.

    profile: JSON of trtexec --exportProfile. kernels: JSON of `ois bench kernels --output`.
    layer_info: JSON of trtexec --exportLayerInfo with detailed profiling, for fused layers.
    layers: regular expression of the attention's layers. Raises `InvalidInput` if `layers` is not
    a regular expression, or a file does not hold what is needed.
    """
    try:
        pattern = re.compile(layers)
    except re.error as error:
        raise InvalidInput(
            f"got --layers {layers!r}; expected a regular expression: {error}"
        ) from error
    try:
        if not isinstance(profile, list):
            raise TypeError(f"the profile is {type(profile).__name__}, not a list")
        named = [(str(e["name"]), float(e["averageMs"])) for e in profile if "name" in e]
        rows = {(row["call"]["objects"], row["call"]["keys"]): row for row in kernels["rows"]}
        nodes = _nodes(layer_info)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"expected a layer profile and a result of `ois bench kernels`, got something else: "
            f"{error!r}; `ois bench plugin --help` shows how both are made"
        ) from error
    attention = [ms for name, ms in named if pattern.search(f"{name} {nodes.get(name, '')}")]
    if not attention:
        fused = [ms for name, ms in named if _FUSED.search(name)]
        raise InvalidInput(
            f"none of the profile's {len(named)} layers matches {layers!r}; {len(fused)} of them "
            f"are regions that TensorRT fused ({1000 * sum(fused):.1f} us), whose names do not "
            "show their nodes. Give --layer-info, written by trtexec --exportLayerInfo with "
            "--profilingVerbosity=detailed, or another pattern with --layers"
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
    """Layer -> the nodes in it; empty if the engine was built without details."""
    if layer_info is None:
        return {}
    described = [layer for layer in layer_info["Layers"] if isinstance(layer, dict)]
    return {str(layer["Name"]): str(layer.get("Metadata", "")) for layer in described}
