"""Requests that Triton sends to a TensorRT engine itself, before it counts as ready.

One a profile, of the shapes that the profile is tuned for, all zeros: what TensorRT sets up once
for a profile is then not paid by the first person who clicks. The build's gate has run every one
of these shapes. Engines of other kinds have none: their configs serve on CPUs too, where an
encode takes seconds.

Triton's `model_warmup` is written from what `ois build` keeps in the manifest's options, so that
a repository can be written again without TensorRT. *Not run on a GPU yet.*
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ois_export.tensorrt.profiles import Profile, Shape
from ois_runtime.engines.manifest import EngineFile, Manifest, TensorSpec

#: In `Manifest.options`: role -> for each profile {"name": ..., "inputs": {input: shape}}.
OPTION = "warm_up"


def samples(engine: EngineFile, profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """Every input of the engine at each profile's optimum, for the manifest's options."""
    return [
        {
            "name": profile.name,
            "inputs": {spec.name: list(_best(profile, spec)) for spec in engine.inputs},
        }
        for profile in profiles
    ]


def _best(profile: Profile, spec: TensorSpec) -> Shape | tuple[int | str, ...]:
    """A profile says nothing about an input whose shape is fixed."""
    return profile.inputs[spec.name][1] if spec.name in profile.inputs else spec.shape


def model_warmup(manifest: Manifest, role: str, kind_of: Callable[[TensorSpec], str]) -> str:
    """The text for `config.pbtxt`, or "". kind_of: a tensor -> Triton's name for its type."""
    found: Sequence[Mapping[str, Any]] = manifest.options.get(OPTION, {}).get(role, ())
    engine = {"encoder": manifest.encoder, "decoder": manifest.decoder}[role]
    kinds = {spec.name: kind_of(spec) for spec in engine.inputs}
    entries = []
    for sample in found:
        inputs = "\n".join(
            f'    inputs {{ key: "{name}" value {{ data_type: {kinds[name]} '
            f"dims: [ {', '.join(map(str, shape))} ] zero_data: true }} }}"
            for name, shape in sample["inputs"].items()
        )
        # 1, though these models have no batches: Triton skips a sample of batch size 0.
        entries.append(f'  {{\n    name: "{sample["name"]}"\n    batch_size: 1\n{inputs}\n  }}')
    return "model_warmup [\n" + ",\n".join(entries) + "\n]" if entries else ""
