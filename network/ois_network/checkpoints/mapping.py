"""Converts checkpoints of other OIS implementations, by a mapping file that renames tensors.

    preset = "vitb"                      # or a table [config] with fields of `NetworkConfig`
    drop = ['^criterion\\.']              # regexes of tensors to leave out

    [prefix]                             # the longest matching prefix is used
    "backbone." = "encoder."

    [regex]                              # tried first, in this order, on the whole name
    'blk\\.(\\d+)\\.cross\\.in_proj_weight' = [      # a list: split evenly along axis 0
      'fusion.blocks.\\1.order_attention.query.weight',
      'fusion.blocks.\\1.order_attention.key.weight',
      'fusion.blocks.\\1.order_attention.value.weight',
    ]

Choices that no tensor shows are in the config: with `mask_empty_slots = true` the masks of
Equation 5 cover empty slots too; `fusion_order` and `image_update` say when each attention runs.

A tensor that matches no rule keeps its name. Tensors are reshaped if their shape differs only by
axes of length 1, such as a linear layer and a 1x1 convolution. A mapping file can also be JSON.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ois_client.contract.errors import CheckpointError
from ois_network.checkpoints.checkpoint import StoredDtype, network_of, save_checkpoint
from ois_network.checkpoints.weights_file import read_weights
from ois_network.config import NetworkConfig, preset
from ois_network.parameters import state_shapes
from ois_network.variants import changed

_KEYS = {"preset", "config", "drop", "prefix", "regex"}


@dataclass(frozen=True, slots=True)
class KeyMapping:
    """Rules that turn foreign names into ours. regex: (pattern, our names)."""

    prefix: dict[str, str] = field(default_factory=dict)
    regex: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = ()
    drop: tuple[re.Pattern[str], ...] = ()
    config: NetworkConfig | None = None

    def targets(self, name: str) -> tuple[str, ...]:
        """Our names for the foreign tensor `name`; none if it is to be dropped."""
        if any(pattern.search(name) for pattern in self.drop):
            return ()
        for pattern, targets in self.regex:
            if match := pattern.fullmatch(name):
                return tuple(match.expand(target) for target in targets)
        for prefix in sorted(self.prefix, key=len, reverse=True):
            if name.startswith(prefix):
                return (self.prefix[prefix] + name[len(prefix) :],)
        return (name,)


@dataclass(slots=True)
class MappingReport:
    """All problems of a conversion at once, so that a mapping file needs few attempts.

    unmapped: foreign names that become no tensor of ours. missing: our names without a source.
    misshaped, collisions: descriptions. dropped, reshaped: names; these two are not errors.
    """

    unmapped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    collisions: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the conversion has no errors."""
        return not (self.unmapped or self.missing or self.misshaped or self.collisions)

    def text(self) -> str:
        """All errors, one name per line."""
        sections = (
            ("foreign tensors that become none of ours (map or `drop` them)", self.unmapped),
            ("of our tensors that no foreign tensor maps to", self.missing),
            ("wrong shapes", self.misshaped),
            ("mapped more than once", self.collisions),
        )
        lines = []
        for title, names in sections:
            if names:
                lines += [f"{len(names)} {title}:", *(f"  {name}" for name in names)]
        return "\n".join(lines)


def read_mapping(path: str | Path) -> KeyMapping:
    """Read a mapping file, .toml or .json. Raises `CheckpointError` that names the wrong entry."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the mapping {path}: {error.strerror}; check the name"
        ) from None
    except ValueError as error:  # UnicodeDecodeError and both parsers' errors
        raise CheckpointError(f"the mapping {path} is not valid: {error}") from None
    if not isinstance(data, dict) or set(data) - _KEYS:
        got = sorted(set(data) - _KEYS) if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(f"the mapping {path} has {got}; expected some of {sorted(_KEYS)}")
    if "preset" in data and "config" in data:
        raise CheckpointError(f"the mapping {path} has both preset and config; keep one")
    try:
        config = preset(data["preset"]) if "preset" in data else None
        if "config" in data:
            config = NetworkConfig.from_dict(data["config"])
        return KeyMapping(
            {str(old): _text(new) for old, new in data.get("prefix", {}).items()},
            tuple(
                (
                    re.compile(old),
                    tuple(map(_text, new)) if isinstance(new, list) else (_text(new),),
                )
                for old, new in data.get("regex", {}).items()
            ),
            tuple(re.compile(_text(pattern)) for pattern in data.get("drop", [])),
            config,
        )
    except re.error as error:
        raise CheckpointError(
            f"the mapping {path}: {error.pattern!r} is not a regular expression: {error}"
        ) from None
    except (AttributeError, TypeError) as error:
        raise CheckpointError(f"the mapping {path} has a wrong entry: {error}") from None


def apply_mapping(
    tensors: Mapping[str, Tensor], mapping: KeyMapping, config: NetworkConfig
) -> tuple[dict[str, Tensor], MappingReport]:
    """Rename foreign tensors to those of a network of `config`.

    Returns the renamed tensors and what is wrong with them. Raises `CheckpointError` if a rule of
    the mapping is invalid.
    """
    expected = state_shapes(config)
    report = MappingReport()
    renamed: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for name, tensor in tensors.items():
        try:
            targets = mapping.targets(name)
        except (re.error, IndexError) as error:
            raise CheckpointError(f"the mapping's rule for {name} is wrong: {error}") from None
        if not targets:
            report.dropped.append(name)
            continue
        if len(targets) > 1 and (not tensor.dim() or tensor.shape[0] % len(targets)):
            shape = tuple(tensor.shape)
            report.misshaped.append(f"{name} {shape} cannot be split into {len(targets)} parts")
            continue
        parts = tensor.chunk(len(targets)) if len(targets) > 1 else (tensor,)
        for target, part in zip(targets, parts, strict=True):
            if target not in expected:
                via = "" if target == name else f" (as {target})"
                report.unmapped.append(f"{name}{via}")
            elif target in sources:
                report.collisions.append(f"{target} from {sources[target]} and {name}")
            else:
                sources[target] = name
                renamed[target] = _fit(target, part, expected[target], report)
    report.missing = [name for name in expected if name not in sources]
    return renamed, report


def convert(
    path: str | Path,
    mapping_path: str | Path,
    out: str | Path,
    *,
    config: NetworkConfig | None = None,
    changes: Mapping[str, Any] | None = None,
    dtype: StoredDtype | str = StoredDtype.FP32,
) -> MappingReport:
    """Convert a foreign checkpoint into one of ours.

    config: overrides the mapping file's. changes: to that config, see `variants.changed`; for
    choices that the paper leaves open, such as `mask_empty_slots`.

    Raises `CheckpointError` with the whole report if a tensor is left over, missing or has another
    shape; then nothing is written. Raises `InvalidInput` for a wrong change, and `OutputError` if
    `out` cannot be written.
    """
    mapping = read_mapping(mapping_path)
    config = config or mapping.config
    if config is None:
        raise CheckpointError(
            f'the mapping {mapping_path} names no network; add preset = "vitb", a [config] '
            "table, or pass --config"
        )
    config = changed(config, changes or {})
    weights = read_weights(path)
    renamed, report = apply_mapping(weights.tensors, mapping, config)
    if not report.complete:
        raise CheckpointError(
            f"{weights.path} cannot be converted to {config.name}\n{report.text()}"
        )
    network = network_of(config, renamed, str(weights.path))
    notes: dict[str, Any] = {
        "converted_from": weights.path.name,
        "mapping": Path(mapping_path).name,
    }
    save_checkpoint(network, out, dtype=dtype, trained=True, notes=notes, parent=weights.sha256)
    return report


def _fit(name: str, tensor: Tensor, shape: tuple[int, ...], report: MappingReport) -> Tensor:
    got = tuple(tensor.shape)
    if got == shape:
        return tensor
    if [n for n in got if n != 1] == [n for n in shape if n != 1]:
        report.reshaped.append(name)
        return tensor.reshape(shape)
    report.misshaped.append(f"{name} got {got} expected {shape}")
    return tensor


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"got {value!r}, expected a string")
    return value
