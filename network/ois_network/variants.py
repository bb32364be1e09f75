"""Networks without some parts, or with others: the paper's ablations as changes of a config.

A switch is a field of `NetworkConfig` that leaves encoder and heads as they are, so that a network
with other switches can take the weights that both have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ois_client.contract.errors import CheckpointError, InvalidInput
from ois_network.config import PRESETS, NetworkConfig

#: The fields that can be changed.
SWITCHES = (
    "order_attention", "object_attention", "sparse", "dense", "order", "object",
    "previous_mask", "fine_prompts", "keep_clicks", "depth_encoder", "depth_blocks",
    "fused_levels", "fusion_order", "image_update", "mask_empty_slots",
    "aligned_corners", "detail_channels",
)  # fmt: skip

#: What a network can be without -> the field that is then false. "order" and "object" mean the
#: attention modules, as in the paper's Table 4.
REMOVABLE = {
    "order": "order_attention",
    "object": "object_attention",
    "sparse": "sparse",
    "dense": "dense",
    "order-maps": "order",
    "object-masks": "object",
    "previous-mask": "previous_mask",
    "fine-prompts": "fine_prompts",
    "kept-clicks": "keep_clicks",
    "details": "detail_channels",
}


def removed(names: Iterable[str]) -> dict[str, Any]:
    """The changes that leave out these parts, see `REMOVABLE`; names may be joined by commas.

    Raises `InvalidInput` for an unknown name.
    """
    parts = [name.strip() for text in names for name in text.split(",")]
    unknown = [name for name in parts if name not in REMOVABLE]
    if unknown:
        raise InvalidInput(
            f"got the parts {', '.join(map(repr, unknown))} to leave out; expected some of "
            f"{', '.join(REMOVABLE)}"
        )
    return {REMOVABLE[name]: False for name in parts}


def parse_changes(settings: Iterable[str]) -> dict[str, Any]:
    """The changes that texts such as `depth_blocks=4` or `fused_levels=3,4` describe.

    Raises `InvalidInput` for another form, or a field that is not a switch.
    """
    changes: dict[str, Any] = {}
    for text in settings:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise InvalidInput(
                f"got the change {text!r}; expected FIELD=VALUE, such as depth_encoder=true"
            )
        default = getattr(_known(name), name)
        if isinstance(default, bool):
            if value.lower() not in ("true", "false"):
                raise InvalidInput(f"got the change {text!r}; expected {name}=true or {name}=false")
            changes[name] = value.lower() == "true"
        elif isinstance(default, tuple):
            changes[name] = [_number(item) for item in value.split(",")]
        else:
            changes[name] = _number(value)
    return changes


def changed(config: NetworkConfig, changes: Mapping[str, Any]) -> NetworkConfig:
    """The config with other values for some of `SWITCHES`, as plain TOML or JSON types.

    Raises `InvalidInput` for another field, a value of a wrong type, and an impossible network.
    """
    for name in changes:
        _known(name)
    try:
        return NetworkConfig.from_dict({**config.to_dict(), **changes})
    except CheckpointError as error:
        given = ", ".join(f"{name}={value}" for name, value in changes.items())
        raise InvalidInput(f"got the changes {given} to the network {config.name}: {error}") \
            from None  # fmt: skip


def differences(config: NetworkConfig) -> dict[str, Any]:
    """The switches whose values are not those of the preset with the same name."""
    usual, own = PRESETS.get(config.name, NetworkConfig()).to_dict(), config.to_dict()
    return {name: own[name] for name in SWITCHES if own[name] != usual[name]}


def _number(text: str) -> int | str:
    """An integer if it is one; otherwise the text, which the config's own check refuses."""
    return int(text) if text.strip().isdigit() else text


def _known(name: str) -> NetworkConfig:
    """A config with defaults. Raises `InvalidInput` if `name` is not a switch."""
    if name not in SWITCHES:
        fields = {field.name for field in dataclasses.fields(NetworkConfig)}
        reason = "would change encoder or heads" if name in fields else "does not exist"
        raise InvalidInput(
            f"got a change of {name!r}, which {reason}; expected some of {', '.join(SWITCHES)}"
        )
    return NetworkConfig()
